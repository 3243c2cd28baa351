//! Why a guest is lost.

use std::sync::Arc;

use tokio::sync::watch;

/// Why a guest is lost. It is shown as the reason, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// A connection ended. The VM may be about to end as well, and then says why.
    #[error("{0}")]
    Ended(String),
    /// The guest broke the protocol, or does not read what it is sent.
    #[error("{0}")]
    Broken(String),
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
