//! What is open in the policy's sets, because a listed name led to it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::Mutex, task::spawn_blocking, time::Instant};

use crate::{
    error::{Error, Result},
    nft,
    rules::{self, MAX_OPENED, Opening},
};

/// How long an address is open at least and at most, whatever its record says.
const SHORTEST: Duration = Duration::from_secs(60);
pub const LONGEST: Duration = Duration::from_secs(3600);

/// How much longer it is open than was asked for. So a VM that asks often costs one nft in that time.
const MARGIN: Duration = Duration::from_secs(10);

/// What changes the sets: nft, or a test's.
type Apply = dyn Fn(&str) -> Result<()> + Send + Sync;

/// What is open for a VM, and until when.
pub struct Openings {
    name: String,
    apply: Arc<Apply>,
    /// Locked while nft runs: it runs once at a time.
    until: Mutex<HashMap<Opening, Instant>>,
}

impl Openings {
    /// Of the VM `name`.
    pub fn new(name: String) -> Openings {
        Openings::with(name, Arc::new(nft::apply))
    }

    fn with(name: String, apply: Arc<Apply>) -> Openings {
        Openings { name, apply, until: Mutex::default() }
    }

    /// Opens what is not open for so long yet.
    ///
    /// # Errors
    /// nft's, or that too much is open.
    pub async fn open(&self, wanted: Vec<(Opening, Duration)>) -> Result<()> {
        let mut until = self.until.lock().await;
        let now = Instant::now();
        until.retain(|_, until| *until > now);
        let needed: HashMap<Opening, Duration> = wanted
            .into_iter()
            .map(|(opening, time)| (opening, time.clamp(SHORTEST, LONGEST)))
            .filter(|(opening, time)| until.get(opening).is_none_or(|until| *until < now + *time))
            .map(|(opening, time)| (opening, time + MARGIN))
            .collect();
        if needed.is_empty() {
            return Ok(());
        }
        let new = needed.keys().filter(|opening| !until.contains_key(opening)).count();
        if until.len() + new > MAX_OPENED {
            return Err(Error::new(format!("{MAX_OPENED} addresses are open already, which is the most")));
        }
        let needed: Vec<_> = needed.into_iter().collect();
        let (script, apply) = (rules::open(&self.name, &needed), self.apply.clone());
        let applied = spawn_blocking(move || apply(&script)).await;
        applied.map_err(Error::at("run nft"))??;
        until.extend(needed.into_iter().map(|(opening, time)| (opening, now + time)));
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use std::{net::Ipv4Addr, sync::mpsc};

    use super::*;

    /// Openings whose scripts come out of the channel.
    pub fn recorded() -> (Openings, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel();
        let apply = move |script: &str| sender.send(script.to_owned()).map_err(Error::at("send"));
        (Openings::with("a".to_owned(), Arc::new(apply)), receiver)
    }

    fn wanted(last: u8, seconds: u64) -> Vec<(Opening, Duration)> {
        vec![((Ipv4Addr::new(203, 0, 113, last), Some(443)), Duration::from_secs(seconds))]
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_opened_for_its_time_within_bounds() {
        for (seconds, expected) in [(0, 70), (300, 310), (86400, 3610)] {
            let (openings, scripts) = recorded();
            openings.open(wanted(1, seconds)).await.unwrap();
            let script = scripts.try_recv().unwrap();
            let element =
                format!("add element inet krunctl-a host-ports {{ 203.0.113.1 . 443 timeout {expected}s }}");
            assert!(script.contains(&element), "{script}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_open_is_prolonged_when_it_is_needed() {
        let (openings, scripts) = recorded();
        openings.open(wanted(1, 60)).await.unwrap();
        scripts.try_recv().unwrap();
        tokio::time::advance(MARGIN).await;
        openings.open(wanted(1, 60)).await.unwrap();
        assert!(scripts.try_recv().is_err());
        tokio::time::advance(Duration::from_secs(1)).await;
        openings.open(wanted(1, 60)).await.unwrap();
        scripts.try_recv().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_most_and_what_is_over_makes_room() {
        let (openings, _scripts) = recorded();
        let many = (0..MAX_OPENED as u32).map(|i| ((Ipv4Addr::from_bits(i), None), SHORTEST)).collect();
        openings.open(many).await.unwrap();
        assert!(openings.open(wanted(1, 60)).await.unwrap_err().to_string().contains("the most"));
        tokio::time::advance(SHORTEST + MARGIN).await;
        openings.open(wanted(1, 60)).await.unwrap();
    }

    #[tokio::test]
    async fn what_nft_refused_is_not_open() {
        let (openings, scripts) = recorded();
        drop(scripts);
        openings.open(wanted(1, 60)).await.unwrap_err();
        openings.open(wanted(1, 60)).await.unwrap_err();
    }
}
