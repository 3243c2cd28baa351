//! A published UDP port: each client is a session of its own in the guest, until it has been silent
//! for a while.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use guest_protocol::{
    api::Protocol,
    relay::{Frames, frame},
};
use log::debug;
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet, time::timeout};

use super::reach::Reach;

/// Silence after which a session ends. Source: Docker's proxy, `UDPConnTrackTimeout`.
const SILENCE: Duration = Duration::from_secs(90);

/// Most sessions at a time: more clients are not heard.
const MAX_SESSIONS: usize = 1024;

/// Datagrams of one client that may wait for the guest: more are dropped, as UDP may be.
const WAITING: usize = 64;

/// The largest datagram that UDP has.
const MAX_DATAGRAM: usize = 65_535;

/// Serves one port.
pub async fn serve(port: u16, socket: UdpSocket, reach: Reach) {
    let socket = Arc::new(socket);
    let mut sessions = HashMap::<SocketAddr, mpsc::Sender<Vec<u8>>>::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        // Errors are those of earlier answers (ICMP).
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let datagram = frame(&buffer[..length]);
        sessions.retain(|_, session| !session.is_closed());
        while tasks.try_join_next().is_some() {}
        if !sessions.contains_key(&client) && sessions.len() == MAX_SESSIONS {
            debug!("published port {port}/udp: {MAX_SESSIONS} clients at a time, {client} is one more");
            continue;
        }
        let session = sessions.entry(client).or_insert_with(|| {
            let (sender, datagrams) = mpsc::channel(WAITING);
            let (socket, reach) = (socket.clone(), reach.clone());
            tasks.spawn(session(port, client, socket, datagrams, reach));
            sender
        });
        let _ = session.try_send(datagram);
    }
}

async fn session(
    port: u16,
    client: SocketAddr,
    socket: Arc<UdpSocket>,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
    reach: Reach,
) {
    let (mut reader, mut writer) = match reach.connect(None, port, Protocol::UDP).await {
        Ok(halves) => halves,
        Err(error) => return debug!("published port {port}/udp: {error}"),
    };
    let mut frames = Frames::default();
    loop {
        let next = async {
            tokio::select! {
                datagram = datagrams.recv() => datagram.map(Ok),
                chunk = reader.recv() => chunk.map(Err),
            }
        };
        match timeout(SILENCE, next).await {
            Ok(Some(Ok(datagram))) if writer.send(&datagram).await.is_ok() => {}
            Ok(Some(Err(chunk))) => {
                frames.push(&chunk);
                for answer in frames.by_ref() {
                    let _ = socket.send_to(&answer, client).await;
                }
            }
            _ => return,
        }
    }
}
