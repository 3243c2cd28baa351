//! The control connection: the host calls, and a hostile guest answers with any bytes at all.

use std::time::Duration;

use guest_protocol::api::{ContainerRef, CreateContainerRequest, GuestClient, ProcessRef};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use ttrpc::{
    r#async::{Client, transport::Socket},
    context,
};

/// A call whose answer has come, or cannot come any more, has ended by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers each of three calls with `data`, on a connection of its own, then ends that.
pub fn run(data: &[u8]) {
    crate::block_on(async {
        for call in 0..3 {
            let (host, guest) = UnixStream::pair().expect("a pair of sockets");
            let answering = tokio::spawn(answer(guest, data.to_owned()));
            let ended = timeout(PATIENCE, ask(call, host)).await;
            assert!(ended.is_ok(), "call {call} outlived its connection");
            answering.abort();
        }
    });
}

async fn ask(call: usize, host: UnixStream) {
    let guest = GuestClient::new(Client::new(Socket::new(host)));
    match call {
        0 => {
            let container_id = "c1".to_owned();
            let asked = CreateContainerRequest { container_id, ..Default::default() };
            let _ = guest.create_container(context::with_duration(PATIENCE * 2), &asked).await;
        }
        1 => drop(guest.wait(context::Context::default(), &ProcessRef::default()).await),
        _ => drop(guest.stats(context::with_duration(PATIENCE * 2), &ContainerRef::default()).await),
    }
}

async fn answer(mut guest: UnixStream, data: Vec<u8>) {
    // Not before it was asked: an answer that nobody waits for is dropped.
    let mut asked = [0; 4096];
    let _ = guest.read(&mut asked).await;
    let _ = guest.write_all(&data).await;
    let _ = guest.shutdown().await;
    // The host may go on writing.
    while guest.read(&mut asked).await.is_ok_and(|count| count > 0) {}
}
