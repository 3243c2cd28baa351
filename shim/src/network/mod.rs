//! How a sandbox reaches the network: by sockets of the host in the task's network namespace
//! (tsi), by NICs that are joined to that namespace's interfaces (tap; spare, while there is none), or not at all.
//!
//! A new mode is a line of [`NAMES`] and of [`decide`]; a new port protocol belongs in [`ports::Protocol`].

mod anti_spoofing;
mod backlog;
mod dialer;
mod filters;
mod hold;
mod links;
mod localhost;
mod netns;
pub mod ports;
mod publish;
mod resolver;
mod snapshot;
mod spare;
mod tap;
mod udp;

use std::time::Duration;

pub use dialer::{AwaitGuest, Dialer};
pub use hold::{is_ours as is_tap, remove_leftovers};
pub use links::Links;
pub use localhost::Localhost;
pub use netns::Netns;
pub use publish::{Backend, Bound, check};
pub use resolver::Resolver;
pub use spare::{Joined, Spare, make as make_spare_tap};

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
    /// Tap, also for an interface that comes before the task is started; tsi where the namespace is the host's.
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
    /// The namespace gets its interfaces before the task is started, and the VM is launched then.
    TapAtStart,
    /// The namespace holds no interface. The VM has a NIC for one that it has when the task is started.
    Spare,
}

impl Choice {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Choice::Tsi => "tsi",
            Choice::None => "none",
            Choice::Tap | Choice::TapAtStart | Choice::Spare => "tap",
        }
    }
}

/// Chooses for the network namespace `netns`, once the hooks have run. With the choice comes how many interfaces there need a NIC.
///
/// # Errors
/// `FAILED_PRECONDITION` when the namespace cannot have what was asked for.
pub fn choose(mode: Mode, netns: &Netns) -> Result<(Choice, usize)> {
    let looked = |e| Error::internal("look into the task's network namespace").because(e);
    if matches!(mode, Mode::Tsi | Mode::None) {
        return Ok((decide(mode, Held::Nothing)?, 0));
    }
    if netns.is_host().map_err(looked)? {
        return Ok((decide(mode, Held::Host)?, 0));
    }
    let configured = netns.run(snapshot::Snapshot::take).map_err(looked)?.map_err(looked)?.configured();
    let names: Vec<_> = configured.iter().map(|interface| interface.name.as_str()).collect();
    info!("configured interfaces: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    let nics = configured.iter().filter(|interface| interface.mac.is_some()).count();
    let held = match nics {
        1.. => Held::Nics,
        0 if configured.is_empty() => Held::Nothing,
        0 => Held::Others,
    };
    Ok((decide(mode, held)?, nics))
}

/// What a namespace holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// All that is the host's.
    Host,
    /// Configured interfaces that NICs can stand for.
    Nics,
    /// Configured interfaces, of which none is like Ethernet.
    Others,
    /// No configured interface.
    Nothing,
}

fn decide(mode: Mode, held: Held) -> Result<Choice> {
    Ok(match (mode, held) {
        (Mode::None, _) => Choice::None,
        (Mode::Tsi, _) => Choice::Tsi,
        (Mode::Tap, Held::Host) => {
            return Err(Error::precondition(
                "network = tap: the task has the host's network namespace, which never gets a tap; tsi works there",
            ));
        }
        (Mode::Auto | Mode::Tap, Held::Nics) => Choice::Tap,
        (Mode::Tap, Held::Others | Held::Nothing) => Choice::TapAtStart,
        (Mode::Auto, Held::Nothing) => Choice::Spare,
        // No NIC can stand for what is there.
        (Mode::Auto, Held::Host | Held::Others) => Choice::Tsi,
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
        assert_eq!(decide(Mode::Auto, Held::Nics).unwrap(), Choice::Tap);
        assert_eq!(decide(Mode::Tap, Held::Nics).unwrap(), Choice::Tap);
        assert_eq!(decide(Mode::Tsi, Held::Nics).unwrap(), Choice::Tsi);
        assert_eq!(decide(Mode::None, Held::Nics).unwrap(), Choice::None);
    }

    #[test]
    fn an_empty_one_gets_a_spare_nic_or_waits() {
        assert_eq!(decide(Mode::Auto, Held::Nothing).unwrap(), Choice::Spare);
        assert_eq!(decide(Mode::Tap, Held::Nothing).unwrap(), Choice::TapAtStart);
        assert_eq!(decide(Mode::Tsi, Held::Nothing).unwrap(), Choice::Tsi);
    }

    #[test]
    fn interfaces_that_no_nic_can_stand_for_are_reached_by_sockets() {
        assert_eq!(decide(Mode::Auto, Held::Others).unwrap(), Choice::Tsi);
        assert_eq!(decide(Mode::Tap, Held::Others).unwrap(), Choice::TapAtStart);
    }

    #[test]
    fn the_hosts_never_gets_a_tap() {
        assert_eq!(decide(Mode::Auto, Held::Host).unwrap(), Choice::Tsi);
        let own = Netns::of(std::process::id()).unwrap();
        assert_eq!(choose(Mode::Auto, &own).unwrap(), (Choice::Tsi, 0));
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
