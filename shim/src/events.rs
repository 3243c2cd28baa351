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
    protobuf::{Message, MessageDyn},
    shim::event::Envelope,
    shim_async::{Client, EventsClient},
    ttrpc::{self, Code, context},
};
use log::{debug, info, warn};
use tokio::sync::Notify;

/// Events that wait for containerd at most.
const MAX_EVENTS: usize = 4096;

/// Their bytes at most, encoded: ids and paths in them are as long as a client likes.
const MAX_BYTES: u64 = 4 << 20;

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
                if self.queue.lock().events.is_empty() {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(limit, drained).await.is_err() {
            warn!(
                "containerd did not take the last {} events: they are lost",
                self.queue.lock().events.len()
            );
        }
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
                self.queue.lock().push(envelope);
                self.queue.changed.notify_waiters();
            }
            Err(error) => warn!("event {topic} cannot be encoded: {error}"),
        }
    }
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The events that containerd has not taken yet.
#[derive(Default)]
struct Waiting {
    events: VecDeque<Envelope>,
    /// Their sizes together.
    bytes: u64,
    /// The number of the first of them, counting all that ever were.
    first: u64,
    /// How many gave way since containerd took one.
    dropped: u64,
}

impl Waiting {
    /// Adds an event, for which the oldest give way.
    fn push(&mut self, envelope: Envelope) {
        let size = envelope.compute_size();
        while self.events.len() == MAX_EVENTS || (self.bytes + size > MAX_BYTES && !self.events.is_empty()) {
            if self.dropped == 0 {
                warn!("containerd takes no events: the oldest of {} give way to new ones", self.events.len());
            }
            self.dropped += 1;
            self.pop();
        }
        self.bytes += size;
        self.events.push_back(envelope);
    }

    fn pop(&mut self) {
        if let Some(envelope) = self.events.pop_front() {
            self.bytes -= envelope.compute_size();
            self.first += 1;
        }
    }

    /// Removes event `number`, which containerd has; it may have given way meanwhile.
    fn taken(&mut self, number: u64) {
        if number == self.first {
            self.pop();
        }
        if self.dropped > 0 {
            warn!("containerd takes events again: {} were dropped", self.dropped);
            self.dropped = 0;
        }
    }
}

async fn forward_all(address: String, queue: Arc<Queue>) {
    let mut client = None;
    let mut failures = 0_u64;
    loop {
        let changed = queue.changed.notified();
        let next = {
            let waiting = queue.lock();
            waiting.events.front().cloned().map(|envelope| (waiting.first, envelope))
        };
        let Some((number, envelope)) = next else {
            changed.await;
            continue;
        };
        match forward(&mut client, &address, &envelope).await {
            Ok(()) => {
                if failures > 0 {
                    info!("event {} reached containerd after {failures} failed attempts", envelope.topic);
                    failures = 0;
                }
                queue.lock().taken(number);
                queue.changed.notify_waiters();
            }
            Err(error) => {
                failures += 1;
                // The first failure tells; containerd may be away for long.
                match failures {
                    1 => warn!(
                        "event {} cannot be sent to {address}, and is tried again: {error}",
                        envelope.topic
                    ),
                    _ => debug!("event {} is not taken yet: {error}", envelope.topic),
                }
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
        Err(ttrpc::Error::RpcStatus(status)) if !is_passing(status.code()) => {
            warn!("containerd refused event {}, which is lost: {}", envelope.topic, status.message);
            Ok(())
        }
        other => other.map(|_| ()),
    }
}

/// Whether another attempt may fare better. Else containerd refuses the event itself, and would again.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::DEADLINE_EXCEEDED
            | Code::UNAVAILABLE
            | Code::CANCELLED
            | Code::ABORTED
            | Code::RESOURCE_EXHAUSTED
    )
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, os::unix::net::UnixListener, path::Path};

    use async_trait::async_trait;
    use containerd_shim_protos::{
        api::Empty,
        events::task::TaskStart,
        shim_async::{Events, create_events},
        ttrpc::asynchronous::{Server, TtrpcContext, transport::Listener},
    };
    use tokio::sync::mpsc;

    use super::*;

    /// A containerd that notes the topics that it takes, and answers some with a failure, once.
    struct Containerd {
        taken: mpsc::UnboundedSender<String>,
        failures: Mutex<HashMap<String, Code>>,
    }

    #[async_trait]
    impl Events for Containerd {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            let topic = request.envelope.topic.clone();
            if let Some(code) = self.failures.lock().unwrap().remove(&topic) {
                return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(code, "not now")));
            }
            let _ = self.taken.send(topic);
            Ok(Empty::new())
        }
    }

    async fn containerd(
        socket: &Path,
        failures: &[(&str, Code)],
    ) -> (Server, mpsc::UnboundedReceiver<String>) {
        let (taken, topics) = mpsc::unbounded_channel();
        let failures = failures.iter().map(|(topic, code)| ((*topic).to_owned(), *code)).collect();
        let service = Arc::new(Containerd { taken, failures: Mutex::new(failures) });
        let listener = UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = Listener::try_from(listener).unwrap();
        let mut server = Server::new().add_listener(listener).register_service(create_events(service));
        server.start().await.unwrap();
        (server, topics)
    }

    fn publish(publisher: &Publisher, topics: &[&str]) {
        for topic in topics {
            publisher.publish((*topic).to_owned(), Box::new(TaskStart::new()));
        }
    }

    #[tokio::test]
    async fn events_wait_for_containerd_and_keep_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("ttrpc");
        let publisher = Publisher::start(socket.display().to_string(), "default".to_owned());
        publish(&publisher, &["/1", "/2", "/3"]);
        publisher.drain(Duration::ZERO).await;
        // containerd comes back, and is busy with the second.
        let (_server, mut topics) = containerd(&socket, &[("/2", Code::UNAVAILABLE)]).await;
        publish(&publisher, &["/4"]);
        for expected in ["/1", "/2", "/3", "/4"] {
            assert_eq!(topics.recv().await.unwrap(), expected);
        }
        publisher.drain(ATTEMPT).await;
        assert!(publisher.queue.lock().events.is_empty());
    }

    #[tokio::test]
    async fn an_event_that_containerd_refuses_holds_up_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("ttrpc");
        let (_server, mut topics) = containerd(&socket, &[("/1", Code::INVALID_ARGUMENT)]).await;
        let publisher = Publisher::start(socket.display().to_string(), "default".to_owned());
        publish(&publisher, &["/1", "/2"]);
        assert_eq!(topics.recv().await.unwrap(), "/2");
    }

    fn envelope(topic: &str) -> Envelope {
        Envelope { topic: topic.to_owned(), ..Envelope::default() }
    }

    #[test]
    fn the_oldest_events_give_way_to_too_many() {
        let mut waiting = Waiting::default();
        for number in 0..MAX_EVENTS + 3 {
            waiting.push(envelope(&format!("/{number}")));
        }
        assert_eq!((waiting.events.len(), waiting.dropped, waiting.first), (MAX_EVENTS, 3, 3));
        assert_eq!(waiting.events[0].topic, "/3");
        // The one that was on its way has given way: the next is not taken for it.
        waiting.taken(0);
        assert_eq!((waiting.events.len(), waiting.dropped), (MAX_EVENTS, 0));
        waiting.taken(3);
        assert_eq!(waiting.events[0].topic, "/4");
    }

    #[test]
    fn the_oldest_events_give_way_to_too_large_ones() {
        let mut waiting = Waiting::default();
        let large = "x".repeat(1 << 20);
        for _ in 0..10 {
            waiting.push(envelope(&large));
        }
        assert!(waiting.bytes <= MAX_BYTES);
        assert_eq!((waiting.events.len(), waiting.dropped), (3, 7));
        waiting.push(envelope(&"x".repeat(5 << 20)));
        assert_eq!(waiting.events.len(), 1, "one that is larger than all may be waits alone");
        waiting.taken(waiting.first);
        assert_eq!((waiting.bytes, waiting.events.len()), (0, 0));
    }
}
