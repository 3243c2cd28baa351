//! `exec ROOT`: runs more commands in a container that is there, and tells a command that fails from one that there is not.

mod common;

use std::process::ExitCode;

use common::{ID, Machine, Result, Share, soon};
use vm_launcher::guest_protocol::{api, failure::CallError, mux::FIRST_STREAM};

fn main() -> ExitCode {
    common::main(exec)
}

async fn exec(args: &[&str]) -> Result<u8> {
    let [root] = args else { return Err("usage: exec ROOT".into()) };
    let machine = Machine::boot(Share::new(root)?).await?;
    // The container lives as long as its own process. This one's input and output are /dev/null.
    machine.start(&["/bin/sleep", "1000"], &[], api::Stdio::default()).await?;

    let script = "read name </proc/1/comm; echo \"beside $name\"; exit 3";
    let (status, output) = run(&machine, "first", FIRST_STREAM, &["/bin/sh", "-c", script]).await?;
    print!("{output}");
    println!("exec ended with {status}");

    match run(&machine, "second", FIRST_STREAM + 1, &["/no/such/command"]).await {
        Ok(_) => return Err("a command that there is not was run".into()),
        Err(error) => match common::command_status(&*error) {
            Some(status) => println!("no such command: a shell would say {status}"),
            None => return Err(error),
        },
    }

    // SIGKILL, to all of the container.
    let kill = api::SignalRequest { container_id: ID.to_owned(), signal: 9, all: true, ..Default::default() };
    machine.guest.client.signal(soon(), &kill).await.map_err(CallError::from)?;
    println!("the container ended with {}", machine.wait(&common::process("")).await?);
    machine.end().await;
    Ok(0)
}

/// Runs a command in the container; answers its exit status and its output. `stream` is a number for the latter.
async fn run(machine: &Machine, id: &str, stream: u32, args: &[&str]) -> Result<(u8, String)> {
    let client = &machine.guest.client;
    let (stdout, _) = machine.guest.streams.open(stream)?;
    let request = api::ExecRequest {
        container_id: ID.to_owned(),
        exec_id: id.to_owned(),
        process: common::command(args).to_string().into_bytes(),
        stdio: Some(api::Stdio { stdout: stream, ..Default::default() }).into(),
        ..Default::default()
    };
    // An exec is started when it is made.
    client.exec(soon(), &request).await.map_err(CallError::from)?;
    let process = common::process(id);
    let output = common::text(stdout).await;
    let status = machine.wait(&process).await?;
    // Frees its id.
    client.delete_exec(soon(), &process).await.map_err(CallError::from)?;
    Ok((status, output))
}
