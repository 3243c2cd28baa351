//! Task events, sent to containerd in the order in which they happened.
//!
//! containerd may be away (it restarts): an event is tried again until it was taken, and those
//! behind it wait. The queue is bounded; when containerd stays away for that long, the oldest
//! events give way, as containerd asks every task for its state when it comes back.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use containerd_shim::util::{convert_to_any, timestamp};
use containerd_shim_protos::{
    api::ForwardRequest,
    protobuf::MessageDyn,
    shim::event::Envelope,
    shim_async::{Client, EventsClient},
    ttrpc::{self, context},
};
use log::{debug, warn};
use tokio::sync::Notify;

/// Events that wait for containerd at most.
const QUEUE: usize = 4096;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Pause between attempts while containerd is away.
const RETRY: Duration = Duration::from_millis(500);

/// Where a task's events go. A trait so that the state machine is tested without containerd.
pub trait Publish: Send + Sync + 'static {
    /// Queues an event under `topic`; never blocks.
    fn publish(&self, topic: String, event: Box<dyn MessageDyn>);
}

/// Publishes to containerd.
pub struct Publisher {
    namespace: String,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    events: Mutex<VecDeque<Envelope>>,
    changed: Notify,
}

impl Publisher {
    /// Starts publishing to the ttrpc socket at `address`, on a task of the current runtime.
    pub fn start(address: String, namespace: String) -> Self {
        let queue = Arc::new(Queue::default());
        tokio::spawn(forward_all(address, queue.clone()));
        Publisher { namespace, queue }
    }

    /// Waits until every event was taken, or `limit` has passed.
    pub async fn drain(&self, limit: Duration) {
        let drained = async {
            loop {
                let changed = self.queue.changed.notified();
                if self.queue.lock().is_empty() {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(limit, drained).await.is_err() {
            warn!("{} events were not taken by containerd", self.queue.lock().len());
        }
    }
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Envelope>> {
        self.events.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Publish for Publisher {
    fn publish(&self, topic: String, event: Box<dyn MessageDyn>) {
        let envelope = timestamp().and_then(|now| {
            let mut envelope = Envelope::new();
            envelope.set_timestamp(now);
            envelope.set_namespace(self.namespace.clone());
            envelope.set_topic(topic.clone());
            envelope.set_event(convert_to_any(event)?);
            Ok(envelope)
        });
        match envelope {
            Ok(envelope) => {
                let mut events = self.queue.lock();
                if events.len() == QUEUE {
                    events.pop_front();
                    warn!("containerd takes no events: the oldest of {QUEUE} was dropped");
                }
                events.push_back(envelope);
                self.queue.changed.notify_waiters();
            }
            Err(error) => warn!("event {topic} cannot be encoded: {error}"),
        }
    }
}

async fn forward_all(address: String, queue: Arc<Queue>) {
    let mut client = None;
    loop {
        let changed = queue.changed.notified();
        let Some(envelope) = queue.lock().front().cloned() else {
            changed.await;
            continue;
        };
        match forward(&mut client, &address, &envelope).await {
            Ok(()) => {
                let mut events = queue.lock();
                // The front may have been dropped for room meanwhile.
                if events.front() == Some(&envelope) {
                    events.pop_front();
                }
                drop(events);
                queue.changed.notify_waiters();
            }
            Err(error) => {
                debug!("event {} not taken yet: {error}", envelope.topic);
                client = None;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn forward(client: &mut Option<EventsClient>, address: &str, envelope: &Envelope) -> ttrpc::Result<()> {
    if client.is_none() {
        let socket = format!("unix://{}", address.trim_start_matches("unix://"));
        *client = Some(EventsClient::new(Client::connect(&socket).await?));
    }
    let Some(client) = client else { return Ok(()) };
    let mut request = ForwardRequest::new();
    request.set_envelope(envelope.clone());
    match client.forward(context::with_duration(ATTEMPT), &request).await {
        // containerd answered, and will answer so again: the event itself is refused.
        Err(ttrpc::Error::RpcStatus(status)) if status.code() != ttrpc::Code::DEADLINE_EXCEEDED => {
            warn!("containerd refused event {}: {}", envelope.topic, status.message);
            Ok(())
        }
        other => other.map(|_| ()),
    }
}
