//! How a sandbox reaches the network: by sockets of the host in the task's network namespace
//! (tsi), by NICs that are joined to that namespace's interfaces (tap), or not at all.
//!
//! A new mode is a line of [`NAMES`] and of [`decide`]; a new port protocol belongs in [`ports::Protocol`].

mod anti_spoofing;
mod backlog;
mod dialer;
mod filters;
mod links;
mod localhost;
mod netns;
pub mod ports;
mod publish;
mod sk_lookup;
mod snapshot;
mod tap;
mod udp;

use std::time::Duration;

pub use dialer::{AwaitGuest, Dialer};
pub use links::{Links, remove_leftovers};
pub use localhost::Localhost;
pub use netns::Netns;
pub use publish::{Backend, Bound, check};

use log::info;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    error::{Error, Result},
    warnings::Warnings,
};

/// How long the guest may take to connect to a server of its own. The guest's kernel gives up a server that does not
/// answer after about as long.
const CONNECT: Duration = Duration::from_secs(130);

/// How long an acceptor waits when there is no descriptor for the next connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that a listener may have at once; more wait in its backlog. Each costs descriptors, buffers and a stream with
/// two windows.
const MAX_CONNECTIONS: usize = 1024;

/// The connections of a listener.
struct Connections {
    listener: TcpListener,
    running: JoinSet<()>,
    warnings: Warnings,
}

impl Connections {
    /// Those that `listener` will have.
    fn new(listener: TcpListener) -> Connections {
        Connections { listener, running: JoinSet::new(), warnings: Warnings::new("accept a connection") }
    }

    /// Accepts the next one, when there is room for it. `serve` relays it.
    async fn accept<F: Future<Output = ()> + Send + 'static>(&mut self, serve: impl FnOnce(TcpStream) -> F) {
        loop {
            let is_full = self.running.len() >= MAX_CONNECTIONS;
            tokio::select! {
                Some(_) = self.running.join_next() => {}
                accepted = self.listener.accept(), if !is_full => match accepted {
                    Ok((socket, _)) => {
                        self.running.spawn(serve(socket));
                        return;
                    }
                    Err(error) => {
                        self.warnings.failed(error);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Tap where it can be, else tsi.
    #[default]
    Auto,
    /// Guest sockets become sockets in the task's network namespace.
    Tsi,
    /// The guest has a NIC for every configured interface of the task's network namespace.
    Tap,
    /// The guest has its loopback interface only.
    None,
}

/// Every mode's name.
const NAMES: [(&str, Mode); 4] =
    [("auto", Mode::Auto), ("tsi", Mode::Tsi), ("tap", Mode::Tap), ("none", Mode::None)];

impl std::str::FromStr for Mode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Mode> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, mode)| *mode).ok_or_else(|| {
            let names = NAMES.map(|(name, _)| format!("{name:?}")).join(", ");
            Error::invalid(format!("network = {name:?}: must be one of {names}"))
        })
    }
}

/// What a mode becomes in a given namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Guest sockets become sockets in the namespace.
    Tsi,
    /// The guest has its loopback interface only.
    None,
    /// The namespace has its interfaces.
    Tap,
    /// The namespace gets its interfaces before the task is started.
    TapAtStart,
}

/// Chooses for the network namespace `netns`, once the hooks have run.
///
/// # Errors
/// `FAILED_PRECONDITION` when the namespace cannot have what was asked for.
pub fn choose(mode: Mode, netns: &Netns) -> Result<Choice> {
    let looked = |e| Error::internal("look into the task's network namespace").because(e);
    if matches!(mode, Mode::Tsi | Mode::None) {
        return decide(mode, false, false);
    }
    let host = netns.is_host().map_err(looked)?;
    if host {
        return decide(mode, host, false);
    }
    let configured = netns.run(snapshot::Snapshot::take).map_err(looked)?.map_err(looked)?.configured();
    let names: Vec<_> = configured.iter().map(|interface| interface.name.as_str()).collect();
    info!("configured interfaces: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    decide(mode, host, configured.iter().any(|interface| interface.mac.is_some()))
}

fn decide(mode: Mode, host: bool, configured: bool) -> Result<Choice> {
    Ok(match mode {
        Mode::None => Choice::None,
        Mode::Tsi => Choice::Tsi,
        Mode::Tap if host => {
            return Err(Error::precondition(
                "network = tap: the task has the host's network namespace, which never gets a tap; tsi works there",
            ));
        }
        Mode::Auto | Mode::Tap if configured => Choice::Tap,
        Mode::Auto => Choice::Tsi,
        Mode::Tap => Choice::TapAtStart,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_has_a_bounded_number_of_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = Connections::new(listener);
        let (done, _) = tokio::sync::broadcast::channel::<()>(1);
        let hold = |socket| {
            let mut done = done.subscribe();
            async move {
                let _ = done.recv().await;
                drop::<TcpStream>(socket);
            }
        };
        for _ in 0..MAX_CONNECTIONS {
            connections.running.spawn(std::future::pending());
        }
        let _client = TcpStream::connect(address).await.unwrap();
        let patience = Duration::from_millis(200);
        assert!(tokio::time::timeout(patience, connections.accept(hold)).await.is_err());
        connections.running = JoinSet::new();
        connections.accept(hold).await;
    }

    #[test]
    fn a_configured_namespace_gets_nics() {
        assert_eq!(decide(Mode::Auto, false, true).unwrap(), Choice::Tap);
        assert_eq!(decide(Mode::Tap, false, true).unwrap(), Choice::Tap);
        assert_eq!(decide(Mode::Tsi, false, true).unwrap(), Choice::Tsi);
        assert_eq!(decide(Mode::None, false, true).unwrap(), Choice::None);
    }

    #[test]
    fn an_empty_one_gets_tsi_or_waits() {
        assert_eq!(decide(Mode::Auto, false, false).unwrap(), Choice::Tsi);
        assert_eq!(decide(Mode::Tap, false, false).unwrap(), Choice::TapAtStart);
    }

    #[test]
    fn the_hosts_never_gets_a_tap() {
        assert_eq!(decide(Mode::Auto, true, false).unwrap(), Choice::Tsi);
        let own = Netns::of(std::process::id()).unwrap();
        assert_eq!(choose(Mode::Auto, &own).unwrap(), Choice::Tsi);
        let error = choose(Mode::Tap, &own).unwrap_err().to_string();
        assert!(error.contains("tsi works there"), "{error}");
    }

    #[test]
    fn modes_have_names() {
        assert_eq!("tap".parse::<Mode>().unwrap(), Mode::Tap);
        let error = "bridge".parse::<Mode>().unwrap_err().to_string();
        assert_eq!(error, "network = \"bridge\": must be one of \"auto\", \"tsi\", \"tap\", \"none\"");
    }
}
