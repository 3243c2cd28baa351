//! Why a guest is lost.

use std::{fmt, sync::Arc};

use tokio::sync::watch;

/// Why a guest is lost. It is shown as the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// A connection ended. The VM may be about to end as well, and then says why.
    Ended(String),
    /// The guest broke the protocol, or does not read what it is sent.
    Broken(String),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Ended(reason) | Lost::Broken(reason) => f.write_str(reason),
        }
    }
}

/// Announces that the guest is lost, unless that was announced before.
#[derive(Debug, Clone)]
pub(crate) struct Announcer(Arc<watch::Sender<Option<Lost>>>);

impl Announcer {
    pub fn new() -> (Announcer, watch::Receiver<Option<Lost>>) {
        let (sender, receiver) = watch::channel(None);
        (Announcer(Arc::new(sender)), receiver)
    }

    pub fn announce(&self, lost: Lost) {
        self.0.send_if_modified(|announced| {
            let is_first = announced.is_none();
            if is_first {
                *announced = Some(lost);
            }
            is_first
        });
    }
}
