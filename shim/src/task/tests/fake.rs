//! A sandbox that does what the test says, and what is told of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use containerd_shim_protos::{protobuf::MessageDyn, ttrpc::Code};
use guest_protocol::api::StatsResponse;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::super::*;
use crate::{
    error::{Error, Result},
    events::Publish,
    sandbox::{Exit, NewContainer, NewProcess, ProcessId, Sandbox},
    stdio::StdioPaths,
};

/// A sandbox whose processes end when the test, or a signal, says so.
#[derive(Default)]
pub struct Fake {
    pub exits: Mutex<HashMap<ProcessId, watch::Sender<Option<Exit>>>>,
    /// Ids whose creation waits for `go`.
    pub slow: Option<&'static str>,
    pub go: Notify,
    pub refuse_start: bool,
    pub sizes: Mutex<Vec<(u32, u32)>>,
    pub deleted: Mutex<Vec<String>>,
    pub oom_kills: watch::Sender<u64>,
}

impl Fake {
    pub fn exit_of(&self, id: &ProcessId) -> watch::Receiver<Option<Exit>> {
        let mut exits = self.exits.lock().unwrap();
        exits.entry(id.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    pub fn end(&self, id: &ProcessId, status: u32) {
        self.exit_of(id);
        self.exits.lock().unwrap()[id].send_replace(Some(Exit { status, oom_killed: false }));
    }
}

#[async_trait]
impl Sandbox for Fake {
    async fn create(&self, new: NewContainer) -> Result<u32> {
        if self.slow == Some(new.id.as_str()) {
            self.go.notified().await;
        }
        if new.id == "bad" {
            return Err(Error::invalid("bad bundle"));
        }
        Ok(4711)
    }
    async fn exec(&self, id: &ProcessId, _: NewProcess, _: StdioPaths) -> Result<()> {
        if id.exec == "missing" {
            return Err(Error::not_found("exec: \"nope\": executable file not found in $PATH"));
        }
        Ok(())
    }
    async fn start(&self, id: &str) -> Result<()> {
        if id == "slow to start" {
            self.go.notified().await;
        }
        if self.refuse_start {
            self.end(&ProcessId::init(id), 255);
            return Err(Error::internal("no such executable"));
        }
        Ok(())
    }
    async fn wait(&self, id: &ProcessId) -> Exit {
        let mut exit = self.exit_of(id);
        exit.wait_for(Option::is_some).await.unwrap().unwrap()
    }
    async fn oom_kills(&self, _: &str, known: u64) -> Option<u64> {
        let mut counts = self.oom_kills.subscribe();
        let count = counts.wait_for(|count| *count > known).await.ok()?;
        Some(*count)
    }
    async fn signal(&self, id: &ProcessId, signal: u32, _: bool) -> Result<()> {
        self.end(id, 128 + signal);
        Ok(())
    }
    async fn close_stdin(&self, _: &ProcessId) -> Result<()> {
        Ok(())
    }
    async fn resize(&self, _: &ProcessId, width: u32, height: u32) -> Result<()> {
        self.sizes.lock().unwrap().push((width, height));
        Ok(())
    }
    async fn pause(&self, _: &str) -> Result<()> {
        Ok(())
    }
    async fn resume(&self, _: &str) -> Result<()> {
        Ok(())
    }
    async fn update(&self, _: &str, _: Vec<u8>) -> Result<()> {
        Ok(())
    }
    async fn stats(&self, _: &str) -> Result<StatsResponse> {
        Ok(StatsResponse::default())
    }
    async fn delete_exec(&self, _: &ProcessId) {}
    async fn delete(&self, id: &str) {
        self.deleted.lock().unwrap().push(id.to_owned());
    }
}

/// Remembers topics.
#[derive(Default)]
pub struct Topics(pub Mutex<Vec<String>>, Notify);

impl Publish for Topics {
    fn publish(&self, topic: String, _: Box<dyn MessageDyn>) {
        self.0.lock().unwrap().push(topic.trim_start_matches("/tasks/").to_owned());
        self.1.notify_waiters();
    }
}

impl Topics {
    /// Waits for the last of `expected`, and compares all.
    pub async fn expect(&self, expected: &[&str]) {
        let arrived = async {
            loop {
                let more = self.1.notified();
                if self.0.lock().unwrap().len() >= expected.len() {
                    return;
                }
                more.await;
            }
        };
        let arrived = timeout(Duration::from_secs(5), arrived).await;
        assert_eq!(*self.0.lock().unwrap(), expected, "after {arrived:?}");
    }
}

pub struct World {
    pub tasks: Arc<Tasks>,
    pub fake: Arc<Fake>,
    pub topics: Arc<Topics>,
}

pub fn world(fake: Fake) -> World {
    let (fake, topics) = (Arc::new(fake), Arc::new(Topics::default()));
    World { tasks: Tasks::new(fake.clone(), topics.clone()), fake, topics }
}

/// Tasks of a sandbox that does nothing by itself.
pub fn idle() -> Arc<Tasks> {
    world(Fake::default()).tasks
}

pub fn new(id: &str) -> NewContainer {
    NewContainer { id: id.to_owned(), ..NewContainer::default() }
}

pub fn exec(container: &str, exec: &str) -> ProcessId {
    ProcessId { container: container.to_owned(), exec: exec.to_owned() }
}

pub fn code<T>(result: Result<T>) -> Code {
    result.err().expect("an error").code()
}
