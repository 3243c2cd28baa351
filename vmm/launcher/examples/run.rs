//! `run ROOT COMMAND [ARG…]`: runs a command in a microVM whose root file system is the directory ROOT, and ends with its exit
//! status.

mod common;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use common::{Machine, Result, Share};
use vm_launcher::guest_protocol::{
    api,
    mux::{FIRST_STREAM, Reader},
};

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
    let (status, out, err) =
        tokio::join!(machine.wait(&own), copy(stdout, io::stdout()), copy(stderr, io::stderr()));
    machine.end().await;
    out.and(err)?;
    status
}

/// Copies a stream to its end.
async fn copy(mut stream: Reader, mut to: impl Write) -> io::Result<()> {
    while let Some(chunk) = stream.recv().await {
        to.write_all(&chunk)?;
    }
    to.flush()
}
