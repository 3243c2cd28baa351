//! A published UDP port: each client is a session of its own in the guest, until it has been silent
//! for a while.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use guest_protocol::relay::{Frames, MAX_DATAGRAM, frame};
use log::debug;
use tokio::{
    net::UdpSocket,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};

use super::{
    backlog::{Backlog, Queue},
    dialer::Dialer,
    ports::Protocol,
};

/// A session ends after this much silence. Source: Docker's proxy, `UDPConnTrackTimeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Most sessions at a time; one more takes the place of the one that has been silent longest.
const MAX_SESSIONS: usize = 1024;

/// The least silence for which a session gives way, so that forged addresses cannot have the guest make sessions without end.
const MIN_SILENCE: Duration = Duration::from_secs(1);

/// A client's.
struct Session {
    queue: Arc<Queue>,
    task: AbortHandle,
    /// When the client was last heard of.
    heard: Instant,
}

/// Serves one port.
pub async fn serve(port: u16, socket: UdpSocket, dialer: Dialer) {
    let (socket, backlog) = (Arc::new(socket), Arc::new(Backlog::default()));
    let mut sessions = HashMap::<SocketAddr, Session>::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        // An error here is an ICMP error about an earlier answer.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        while tasks.try_join_next().is_some() {}
        if sessions.get(&client).is_none_or(|session| session.task.is_finished()) {
            sessions.remove(&client);
            if !make_room(&mut sessions) {
                debug!("published port {port}/udp: {MAX_SESSIONS} clients at a time, {client} is one more");
                continue;
            }
            let queue = Arc::new(Queue::new(&backlog));
            let task = tasks.spawn(session(port, client, socket.clone(), queue.clone(), dialer.clone()));
            sessions.insert(client, Session { queue, task, heard: Instant::now() });
        }
        if let Some(session) = sessions.get_mut(&client) {
            session.heard = Instant::now();
            session.queue.push(frame(&buffer[..length]));
        }
    }
}

/// Whether there is room for one more session, which another may have to give way to.
fn make_room(sessions: &mut HashMap<SocketAddr, Session>) -> bool {
    if sessions.len() < MAX_SESSIONS {
        return true;
    }
    sessions.retain(|_, session| !session.task.is_finished());
    if sessions.len() < MAX_SESSIONS {
        return true;
    }
    let silent = sessions.iter().min_by_key(|(_, session)| session.heard).map(|(client, _)| *client);
    let Some(silent) = silent.filter(|client| sessions[client].heard.elapsed() >= MIN_SILENCE) else {
        return false;
    };
    if let Some(session) = sessions.remove(&silent) {
        session.task.abort();
    }
    true
}

async fn session(port: u16, client: SocketAddr, socket: Arc<UdpSocket>, queue: Arc<Queue>, dialer: Dialer) {
    let (mut reader, mut writer) = match dialer.connect(None, port, Protocol::Udp).await {
        Ok(halves) => halves,
        Err(error) => return debug!("published port {port}/udp: {error}"),
    };
    let mut frames = Frames::default();
    loop {
        let next = async {
            tokio::select! {
                datagram = queue.next() => Some(Ok(datagram)),
                chunk = reader.recv() => chunk.map(Err),
            }
        };
        match timeout(IDLE_TIMEOUT, next).await {
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

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn address(number: usize) -> SocketAddr {
        ([127, 0, 0, 1], 1024 + number as u16).into()
    }

    #[tokio::test(start_paused = true)]
    async fn the_session_that_was_silent_longest_gives_way() {
        let mut tasks = JoinSet::new();
        let backlog = Arc::new(Backlog::default());
        let mut sessions = HashMap::new();
        for number in 0..MAX_SESSIONS {
            assert!(make_room(&mut sessions));
            let task = tasks.spawn(std::future::pending::<()>());
            let session = Session { queue: Arc::new(Queue::new(&backlog)), task, heard: Instant::now() };
            sessions.insert(address(number), session);
            advance(Duration::from_millis(1)).await;
        }
        advance(MIN_SILENCE).await;
        sessions.get_mut(&address(0)).unwrap().heard = Instant::now();
        assert!(make_room(&mut sessions));
        assert!(sessions.contains_key(&address(0)) && !sessions.contains_key(&address(1)));
        assert!(tasks.join_next().await.unwrap().unwrap_err().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_are_in_use_do_not_give_way() {
        let mut tasks = JoinSet::new();
        let backlog = Arc::new(Backlog::default());
        let mut session = || {
            let task = tasks.spawn(std::future::pending::<()>());
            Session { queue: Arc::new(Queue::new(&backlog)), task, heard: Instant::now() }
        };
        let mut sessions: HashMap<_, _> =
            (0..MAX_SESSIONS).map(|number| (address(number), session())).collect();
        assert!(!make_room(&mut sessions));
        assert_eq!(sessions.len(), MAX_SESSIONS);
        // One that has ended does.
        sessions[&address(7)].task.abort();
        while !sessions[&address(7)].task.is_finished() {
            tokio::task::yield_now().await;
        }
        assert!(make_room(&mut sessions));
        assert!(!sessions.contains_key(&address(7)));
    }
}
