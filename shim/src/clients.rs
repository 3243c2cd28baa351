//! Clients in a guest that the shim serves, each over a stream of its own: of forwarded sockets and of Docker's resolver.

use std::sync::Arc;

use guest_protocol::{
    failure::CallError,
    mux::{Reader, Writer},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use vm_launcher::Guest;

use crate::id::StreamNumbers;

/// Clients at a time; more wait in the guest. Each costs a descriptor and up to two windows of a stream.
const CLIENTS: usize = 128;

/// The clients of one server. Dropping this ends them.
pub struct Clients {
    guest: Guest,
    numbers: StreamNumbers,
    room: Arc<Semaphore>,
    running: JoinSet<()>,
}

/// A client, whose stream ends when this is dropped.
pub struct Client<T> {
    /// What the guest says of it.
    pub accepted: T,
    /// From the client.
    pub reader: Reader,
    /// To the client.
    pub writer: Writer,
    place: OwnedSemaphorePermit,
}

impl Clients {
    /// None yet, of this guest.
    pub fn new(guest: Guest, numbers: StreamNumbers) -> Clients {
        Clients { guest, numbers, room: Arc::new(Semaphore::new(CLIENTS)), running: JoinSet::new() }
    }

    /// Waits for room, and for the next client, which `accept` asks the guest to connect to a stream with a number.
    ///
    /// # Errors
    /// The guest's; that the connection is lost, when there is no guest.
    pub async fn next<T, F>(&mut self, accept: impl FnOnce(Guest, u32) -> F) -> Result<Client<T>, CallError>
    where
        T: Send + 'static,
        F: Future<Output = ttrpc::Result<T>> + Send + 'static,
    {
        let lost = |error: String| CallError::Connection(ttrpc::Error::Others(error));
        // Never closed.
        let place = self.room.clone().acquire_owned().await.map_err(|e| lost(e.to_string()))?;
        while self.running.try_join_next().is_some() {}
        let stream = self.numbers.next();
        let (reader, writer) = self.guest.streams.open(stream).map_err(|e| lost(e.to_string()))?;
        // A task of its own: a call that is given up while it is written is the end of the connection.
        let call = tokio::spawn(accept(self.guest.clone(), stream));
        let accepted = call.await.map_err(|e| lost(e.to_string()))??;
        Ok(Client { accepted, reader, writer, place })
    }

    /// Serves a client.
    pub fn serve<T, F>(&mut self, client: Client<T>, serve: impl FnOnce(T, Reader, Writer) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Client { accepted, reader, writer, place } = client;
        let served = serve(accepted, reader, writer);
        self.running.spawn(async move {
            served.await;
            drop(place);
        });
    }
}
