//! What an operator sees of the sandboxes of this host, whoever runs them. Nothing is asked of a guest, a vmm or a shim: it comes from
//! what the shims have written down, and from the host's kernel.

pub mod inspect;
pub mod ps;
pub mod usage;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shim::status::{self, Status, now_ms};

use self::usage::Usage;

/// How a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its VM boots.
    Booting,
    /// Its guest is up.
    Running,
    /// Its VM has ended, and its shim has not.
    Ended,
    /// Its shim is gone. containerd cleans up after it.
    Lost,
}

impl State {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            State::Booting => "booting",
            State::Running => "running",
            State::Ended => "ended",
            State::Lost => "lost",
        }
    }
}

/// A sandbox of this host.
pub struct Seen {
    /// Its directory.
    pub directory: PathBuf,
    /// What its shim has written down.
    pub status: Status,
}

impl Seen {
    /// All of them, in order of namespaces and ids.
    ///
    /// # Errors
    /// When they cannot be looked for.
    pub fn all() -> Result<Vec<Seen>> {
        let all = status::all().context("looking for sandboxes")?;
        Ok(all.into_iter().map(|(directory, status)| Seen { directory, status }).collect())
    }

    /// How it is.
    pub fn state(&self) -> State {
        match &self.status {
            Status { shim, .. } if !shim.is_there() => State::Lost,
            Status { vmm: Some(vmm), .. } if !vmm.is_there() => State::Ended,
            Status { boot: None, .. } => State::Booting,
            _ => State::Running,
        }
    }

    /// How long it has been there.
    pub fn age(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.status.created_ms))
    }

    /// What is known of it, and what it uses.
    pub fn show(&self, usage: &Usage) -> Value {
        let Status { namespace, sandbox, pod, cpus, memory_mib, network, warm, .. } = &self.status;
        json!({
            "namespace": namespace,
            "id": sandbox,
            "pod": pod,
            "state": self.state().name(),
            "cpus": cpus,
            "memory_mib": memory_mib,
            "resident_bytes": usage.vmm.as_ref().map(|vmm| vmm.resident),
            "network": network,
            "boot": if *warm { "warm" } else { "cold" },
            "created_ms": self.status.created_ms,
            "uptime_s": self.age().as_secs(),
        })
    }
}

#[cfg(test)]
pub mod tests {
    use shim::status::Process;

    use super::*;

    /// A sandbox whose shim and vmm are these.
    pub fn seen(shim: Process, vmm: Option<Process>, is_up: bool) -> Seen {
        let status = Status {
            namespace: "default".to_owned(),
            sandbox: "web".to_owned(),
            pod: None,
            created_ms: now_ms() - 5000,
            cpus: 2,
            memory_mib: 512,
            network: "tap".to_owned(),
            warm: true,
            shim,
            vmm,
            anchor: None,
            cgroup: None,
            boot: is_up.then(Default::default),
            kernel: None,
        };
        Seen { directory: PathBuf::from("/run/krun/x"), status }
    }

    #[test]
    fn a_state_is_what_the_processes_say() {
        let here = Process::of(std::process::id()).unwrap();
        let gone = Process { started: here.started + 1, ..here };
        assert_eq!(seen(here, None, false).state(), State::Booting);
        assert_eq!(seen(here, Some(here), false).state(), State::Booting);
        assert_eq!(seen(here, Some(here), true).state(), State::Running);
        assert_eq!(seen(here, Some(gone), true).state(), State::Ended);
        assert_eq!(seen(gone, Some(here), true).state(), State::Lost);
    }

    #[test]
    fn what_is_shown_has_the_size_and_what_is_used() {
        let here = Process::of(std::process::id()).unwrap();
        let shown = seen(here, Some(here), true);
        let shown = shown.show(&Usage::of(&shown.status));
        assert_eq!((&shown["boot"], &shown["memory_mib"]), (&json!("warm"), &json!(512)));
        assert!(shown["resident_bytes"].as_u64().unwrap() > 1 << 20);
        assert!(shown["uptime_s"].as_u64().unwrap() >= 5);
    }
}
