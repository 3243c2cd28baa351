//! How far a VM's boot is, and waiting for its guest.

use async_trait::async_trait;
use tokio::sync::watch;
use vm_launcher::Guest;

use crate::{
    error::{Error, Result},
    network::AwaitGuest,
};

/// What has become of a boot.
#[derive(Clone)]
pub enum Boot {
    /// The VM is not launched yet.
    Awaited,
    UnderWay,
    Done(Guest),
    Failed(String),
}

#[async_trait]
impl AwaitGuest for watch::Receiver<Boot> {
    async fn guest(&self) -> Result<Guest> {
        let mut boot = self.clone();
        loop {
            match &*boot.borrow_and_update() {
                Boot::Done(guest) => return Ok(guest.clone()),
                Boot::Failed(reason) => return Err(Error::internal(reason.clone())),
                Boot::Awaited | Boot::UnderWay => {}
            }
            boot.changed().await.map_err(|_| Error::internal("the VM is gone"))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_guest_hears_why_there_is_none() {
        let (boot, watched) = watch::channel(Boot::Awaited);
        let waiting = tokio::spawn(async move { watched.guest().await });
        boot.send_replace(Boot::UnderWay);
        boot.send_replace(Boot::Failed("no KVM".to_owned()));
        assert_eq!(waiting.await.unwrap().err().unwrap().to_string(), "no KVM");

        let (boot, watched) = watch::channel(Boot::UnderWay);
        drop(boot);
        assert_eq!(watched.guest().await.err().unwrap().to_string(), "the VM is gone");
    }
}
