//! `run ROOT COMMAND [ARG…]`: runs a command in a microVM whose root file system is the directory ROOT, and ends with its exit
//! status.

mod common;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use common::{Machine, Result, Share};
use tokio::{sync::Notify, time::sleep};
use vm_launcher::guest_protocol::{
    api,
    mux::{FIRST_STREAM, Reader},
};

/// How long the output may go on after the command's end.
const AFTER_END: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    common::main(run)
}

async fn run(args: &[&str]) -> Result<u8> {
    let [root, command @ ..] = args else { return Err("usage: run ROOT COMMAND [ARG…]".into()) };
    let machine = Machine::boot(Share::new(root)?).await?;

    // Both sides open a stream by its number, which must not have been used before in this VM.
    let stdio = api::Stdio { stdout: FIRST_STREAM, stderr: FIRST_STREAM + 1, ..Default::default() };
    let (stdout, _) = machine.guest.streams.open(stdio.stdout)?;
    let (stderr, _) = machine.guest.streams.open(stdio.stderr)?;

    machine.start(command, &[], stdio).await?;
    let own = common::process("");
    let copies = async { tokio::join!(copy(stdout, io::stdout()), copy(stderr, io::stderr())) };
    let ended = Notify::new();
    // A process that the command leaves behind, or a hostile guest, could keep the output open.
    let in_time = async {
        ended.notified().await;
        sleep(AFTER_END).await;
    };
    let wait = async {
        let status = machine.wait(&own).await;
        ended.notify_one();
        status
    };
    let (status, copied) = tokio::join!(wait, async {
        tokio::select! {
            (out, err) = copies => out.and(err),
            () = in_time => Ok(()),
        }
    });
    machine.end().await;
    copied?;
    status
}

/// Copies a stream to its end.
async fn copy(mut stream: Reader, mut to: impl Write) -> io::Result<()> {
    while let Some(chunk) = stream.recv().await {
        to.write_all(&chunk)?;
    }
    to.flush()
}
