//! `ports ROOT PORT COMMAND [ARG…]`: runs a command that serves TCP port PORT in the VM, and lets this host's clients reach it.
//!
//! The VM has no network, and needs none: each connection is a stream, and the guest connects it to the server.

mod common;

use std::{io, net::Ipv4Addr, process::ExitCode, time::Duration};

use common::{Machine, Result, Share, soon};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use vm_launcher::{
    Guest,
    guest_protocol::{api, failure::CallError, mux::FIRST_STREAM, relay},
};

/// How long clients may take, once the server has ended, to read what it sent.
const LAST_BYTES: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    common::main(ports)
}

async fn ports(args: &[&str]) -> Result<u8> {
    let [root, port, command @ ..] = args else {
        return Err("usage: ports ROOT PORT COMMAND [ARG…]".into());
    };
    let port: u16 = port.parse()?;
    let machine = Machine::boot(Share::new(root)?).await?;
    machine.start(command, &[], api::Stdio::default()).await?;

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{} leads to port {port} of the VM", listener.local_addr()?);
    let mut clients = JoinSet::new();
    let own = common::process("");
    let status = tokio::select! {
        status = machine.wait(&own) => status?,
        error = serve(&listener, &machine.guest, port, &mut clients) => return Err(error.into()),
    };
    let _ = timeout(LAST_BYTES, clients.join_all()).await;
    println!("the server ended with {status}");
    machine.end().await;
    Ok(status)
}

/// Takes clients until that fails.
async fn serve(listener: &TcpListener, guest: &Guest, port: u16, clients: &mut JoinSet<()>) -> io::Error {
    // A number is never used twice.
    let mut stream = FIRST_STREAM;
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => return error,
        };
        let guest = guest.clone();
        clients.spawn(async move {
            if let Err(error) = connect(guest, stream, port, client).await {
                eprintln!("refused a client: {error}");
            }
        });
        stream += 1;
    }
}

/// Connects a client to the server, and moves bytes until both have ended.
async fn connect(guest: Guest, stream: u32, port: u16, client: TcpStream) -> Result<()> {
    // Opened here first: the server may speak at once.
    let (reader, writer) = guest.streams.open(stream)?;
    let request = api::ConnectRequest {
        addresses: vec![Ipv4Addr::LOCALHOST.to_string()],
        port: port.into(),
        stream,
        ..Default::default()
    };
    guest.client.connect(soon(), &request).await.map_err(CallError::from)?;
    relay::bytes(client, reader, writer).await;
    Ok(())
}
