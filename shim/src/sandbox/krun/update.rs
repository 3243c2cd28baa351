//! New limits for a container that runs: what the guest and the host are to do of them, and what its VM has not got.

use oci_spec::runtime::LinuxResources;

use crate::{
    bundle::{self, Role},
    config::{Limits, Size},
    error::{Error, Result},
};

/// New limits, and who is to enforce them.
pub struct Update {
    /// The guest's part, an OCI `linux.resources` object as JSON.
    pub guest: Vec<u8>,
    /// The host's part.
    pub host: LinuxResources,
    /// What holds afterwards.
    pub limits: Limits,
}

impl Update {
    /// Understands `resources`, an OCI `linux.resources` object as JSON, for a container that has the limits `now`, beside
    /// others whose limits on memory are `others` MiB together.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is no such object, `FAILED_PRECONDITION` for limits that grow beyond the VM.
    pub fn new(resources: &[u8], role: Role, size: Size, now: &Limits, others: u64) -> Result<Update> {
        let mut resources: LinuxResources = serde_json::from_slice(resources)
            .map_err(|e| Error::invalid("understand the resources of an update").because(e))?;
        let host = bundle::for_host(&resources, role);
        for dropped in bundle::keep_guests(&mut resources, role) {
            log::info!("update: {dropped} names things of the host, and is dropped");
        }
        let limits = Limits::of(&resources).over(now);
        size.check(&limits, now, others)?;
        let guest = serde_json::to_vec(&resources)
            .map_err(|e| Error::internal("encode the resources of an update").because(e))?;
        Ok(Update { guest, host, limits })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SIZE: Size = Size { cpus: 2, memory_mib: 1408 };
    const OTHERS: u64 = 256;

    fn update(resources: Value, now: &Limits) -> Result<(Value, Limits)> {
        let update = Update::new(resources.to_string().as_bytes(), Role::Member, SIZE, now, OTHERS)?;
        Ok((serde_json::from_slice(&update.guest).unwrap(), update.limits))
    }

    #[test]
    fn limits_grow_up_to_the_vm_and_no_further() {
        let now = Limits::default();
        let (_, now) =
            update(json!({"memory": {"limit": 1 << 30}, "cpu": {"quota": 200_000, "period": 100_000}}), &now)
                .unwrap();
        let refused = |resources| update(resources, &now).unwrap_err().to_string();
        let memory = refused(json!({"memory": {"limit": (1 << 30) + 1}}));
        assert!(
            memory.contains("1025 MiB") && memory.contains("1280 MiB") && memory.contains("max_memory_mib"),
            "{memory}"
        );
        let cpus = refused(json!({"cpu": {"quota": 200_001}}));
        assert!(cpus.contains("3 CPUs") && cpus.contains("has 2") && cpus.contains("max_cpus"), "{cpus}");
        update(json!({"memory": {"limit": -1}, "cpu": {"quota": -1}}), &now).unwrap();
    }

    #[test]
    fn a_limit_that_was_beyond_the_vm_before_may_stay() {
        let now = Limits { memory: Some(4 << 30), ..Limits::default() };
        let (_, now) =
            update(json!({"memory": {"limit": 4_u64 << 30}, "cpu": {"shares": 512}}), &now).unwrap();
        assert_eq!(now.memory, Some(4 << 30));
        update(json!({"memory": {"limit": 3_u64 << 30}}), &now).unwrap();
    }

    #[test]
    fn what_is_the_hosts_is_dropped() {
        let (resources, _) = update(
            json!({"cpu": {"cpus": "0-3", "shares": 512}, "blockIO": {"weight": 10}, "pids": {"limit": 7}}),
            &Limits::default(),
        )
        .unwrap();
        assert_eq!(resources, json!({"cpu": {"shares": 512}, "pids": {"limit": 7}}));
    }
}
