//! `streams ROOT`: writes to the input of a command in the VM while it reads both outputs.

mod common;

use std::{io, process::ExitCode};

use common::{Machine, Result, Share};
use vm_launcher::guest_protocol::{
    api,
    mux::{FIRST_STREAM, Reader, WINDOW, Writer},
};

/// More than may be on the way of a stream: who sent it all before it read would wait for ever.
const LENGTH: usize = 4 * WINDOW;

fn main() -> ExitCode {
    common::main(streams)
}

async fn streams(args: &[&str]) -> Result<u8> {
    let [root] = args else { return Err("usage: streams ROOT".into()) };
    let machine = Machine::boot(Share::new(root)?).await?;

    let stdio = api::Stdio {
        stdin: FIRST_STREAM,
        stdout: FIRST_STREAM + 1,
        stderr: FIRST_STREAM + 2,
        ..Default::default()
    };
    // A stream has two directions, of which a process uses one.
    let (_, stdin) = machine.guest.streams.open(stdio.stdin)?;
    let (stdout, _) = machine.guest.streams.open(stdio.stdout)?;
    let (stderr, _) = machine.guest.streams.open(stdio.stderr)?;

    machine.start(&["/bin/sh", "-c", "cat; echo the input has ended >&2; exit 5"], &[], stdio).await?;
    let own = common::process("");
    let (sent, received, said, status) =
        tokio::join!(send(stdin), count(stdout), common::text(stderr), machine.wait(&own));
    machine.end().await;
    println!("{} bytes sent, {received} received", sent?);
    print!("on stderr: {said}");
    println!("exit status {}", status?);
    Ok(0)
}

/// Waits whenever the command does not read. The writer's end is the input's.
async fn send(mut stream: Writer) -> io::Result<usize> {
    let line = [b"line".repeat(25), b"\n".to_vec()].concat();
    let mut sent = 0;
    while sent < LENGTH {
        stream.send(&line).await?;
        sent += line.len();
    }
    Ok(sent)
}

/// As long as it does not ask for more, the command waits, and nothing else in the VM does.
async fn count(mut stream: Reader) -> usize {
    let mut received = 0;
    while let Some(chunk) = stream.recv().await {
        received += chunk.len();
    }
    received
}
