//! A VM's network: how it reaches it, and what reaches the guest.

use std::sync::Arc;

use guest_protocol::api;

use super::{super::create::blocking, Vm};
use crate::{
    error::Result,
    network::{Backend, Choice},
    sandbox::host::{Host, Machine},
};

impl<H: Host> Vm<H> {
    /// How it reaches the network.
    pub fn network(&self) -> Choice {
        self.machine.network()
    }

    /// Where published ports of a container lead, whose anchor is in the task's network namespace.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn backend(&self, anchor: u32) -> Result<Backend> {
        self.machine.backend(anchor, &self.dialer)
    }

    /// Gives it the interface that its network namespace has got since its launch, if there is one. Its guest must be up. Says whether it
    /// has the namespace's interfaces now.
    ///
    /// # Errors
    /// What could not be done; as of [`Vm::call`].
    pub async fn join_network(&self) -> Result<bool> {
        let Some(network) = self.machine.join_network(&self.dialer).await? else {
            return Ok(matches!(self.network(), Choice::Tap | Choice::TapAtStart));
        };
        failpoint!("run.joined");
        self.call("join the network", async |guest, limit| guest.client.join(limit, &network).await).await?;
        Ok(true)
    }

    /// What answers the guest's look-ups, where the network namespace of `anchor`, a pid, has a resolver of Docker's.
    ///
    /// # Errors
    /// When the namespace cannot be looked into; as of [`Vm::call`].
    pub async fn lookups(self: &Arc<Self>, anchor: u32) -> Result<Option<impl Future<Output = ()> + use<H>>> {
        let vm = self.clone();
        let found = blocking("look for a resolver", move || vm.machine.resolver(anchor));
        let Some(resolver) = found.await? else { return Ok(None) };
        self.call("listen for look-ups", async |guest, limit| {
            guest.client.listen_for_lookups(limit, &api::Empty::new()).await
        })
        .await?;
        Ok(Some(resolver.serve(self.guest().await?, self.numbers())))
    }
}
