//! The size of a VM: what an annotation says, else what follows from the limits of its containers.

use log::info;
use oci_spec::runtime::LinuxResources;
pub use vm_launcher::config::{MAX_CPUS, MIN_MEMORY_MIB};

use super::Config;
use crate::error::{Error, Result};

/// What the guest's kernel, PID 1 and page tables need besides the containers, in MiB.
const GUEST_NEED_MIB: u64 = 128;

/// The limits of what runs in a sandbox, as the spec declares them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU time per period, in microseconds; none when not positive.
    pub cpu_quota: Option<i64>,
    /// The period, in microseconds.
    pub cpu_period: Option<u64>,
    /// Memory in bytes; none when not positive.
    pub memory: Option<i64>,
}

/// What a VM has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Virtual CPUs.
    pub cpus: u8,
    /// Memory in MiB, the guest's own need included.
    pub memory_mib: u32,
}

/// The period of a quota that names none, in microseconds. Source: the kernel's cgroup-v2.rst, `cpu.max`.
const PERIOD: u64 = 100_000;

impl Limits {
    /// Those of `resources`.
    pub fn of(resources: &LinuxResources) -> Limits {
        let cpu = resources.cpu().as_ref();
        Limits {
            cpu_quota: cpu.and_then(|cpu| cpu.quota()),
            cpu_period: cpu.and_then(|cpu| cpu.period()),
            memory: resources.memory().as_ref().and_then(|memory| memory.limit()),
        }
    }

    /// These limits, and those of `before` where these have none.
    pub fn over(self, before: &Limits) -> Limits {
        Limits {
            cpu_quota: self.cpu_quota.or(before.cpu_quota),
            cpu_period: self.cpu_period.or(before.cpu_period),
            memory: self.memory.or(before.memory),
        }
    }

    /// CPUs for the quota, rounded up.
    fn cpus(&self) -> Option<u64> {
        let quota = self.cpu_quota.filter(|quota| *quota > 0)?;
        Some((quota as u64).div_ceil(self.cpu_period.filter(|period| *period > 0).unwrap_or(PERIOD)))
    }

    /// Memory in MiB, rounded up.
    pub fn memory_mib(&self) -> Option<u64> {
        self.memory.filter(|bytes| *bytes > 0).map(|bytes| (bytes as u64).div_ceil(1 << 20))
    }
}

impl Size {
    /// Refuses limits beyond the VM's size, unless they are no larger than those of `now`. The sandbox's other
    /// containers may use `others` MiB together.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` that says what the VM has, and which setting gives more.
    pub fn check(&self, wanted: &Limits, now: &Limits, others: u64) -> Result<()> {
        let all = u64::from(self.memory_mib).saturating_sub(GUEST_NEED_MIB);
        let room = all.saturating_sub(others);
        if let Some(memory) = wanted.memory_mib().filter(|wanted| *wanted > room)
            && now.memory_mib().is_none_or(|now| memory > now)
        {
            return Err(Error::precondition(format!(
                "a memory limit of {memory} MiB: the VM has {all} MiB for its containers, of which \
                 others may use {others}, and cannot grow; one made with a larger max_memory_mib has room"
            )));
        }
        if let Some(cpus) = wanted.cpus().filter(|wanted| *wanted > self.cpus.into())
            && now.cpus().is_none_or(|now| cpus > now)
        {
            return Err(Error::precondition(format!(
                "a quota of {cpus} CPUs: the VM has {}, and cannot get more; one made with a larger max_cpus has room",
                self.cpus
            )));
        }
        Ok(())
    }
}

impl Config {
    /// Sizes the VM for `limits`, unless an annotation has set its size. Values that follow from limits are clamped to
    /// what the host has, and the log says so.
    pub fn size_for(&mut self, limits: Limits) {
        let cpus =
            std::thread::available_parallelism().map_or(MAX_CPUS, |n| n.get().min(MAX_CPUS.into()) as u8);
        self.size_on(limits, host_memory_mib(), cpus);
    }

    /// The most that an annotation of a pod may ask for, whose limits are these: what the pod gets without, or what the
    /// administrator allows.
    pub(super) fn most_of_pod(&self, limits: Limits) -> Size {
        let mut plain = self.clone();
        plain.size_for(limits);
        Size {
            cpus: plain.cpus.max(self.pod_max_cpus.unwrap_or(0)),
            memory_mib: plain.memory_mib.max(self.pod_max_memory_mib.unwrap_or(0)),
        }
    }

    /// The size that annotations ask for, room for updates included.
    pub(super) fn asked_size(&self) -> Size {
        let room = match self.max_memory_mib {
            0 => 0,
            mib => mib.saturating_add(GUEST_NEED_MIB as u32).min(host_memory_mib()),
        };
        Size {
            cpus: self.max_cpus.max(if self.cpus_fixed { self.cpus } else { 0 }),
            memory_mib: room.max(if self.memory_fixed { self.memory_mib } else { 0 }),
        }
    }

    fn size_on(&mut self, limits: Limits, host_mib: u32, host_cpus: u8) {
        if let (false, Some(wanted)) = (self.cpus_fixed, limits.cpus()) {
            self.cpus = wanted.min(u64::from(host_cpus)) as u8;
            if u64::from(self.cpus) != wanted {
                info!("the limit asks for {wanted} cpus: the VM gets {host_cpus}, all that the host has");
            }
        }
        self.cpus = self.cpus.max(self.max_cpus);
        if let (false, Some(limit)) = (self.memory_fixed, limits.memory_mib()) {
            let wanted = limit.max(u64::from(self.memory_mib)).saturating_add(GUEST_NEED_MIB);
            self.memory_mib = wanted.min(u64::from(host_mib)) as u32;
            if u64::from(self.memory_mib) != wanted {
                info!("the limit asks for {wanted} MiB: the VM gets {host_mib}, all that the host has");
            }
        }
        if self.max_memory_mib > 0 {
            self.memory_mib = self.memory_mib.max(self.max_memory_mib.saturating_add(GUEST_NEED_MIB as u32));
        }
        // The default may be more than a small host has.
        if !self.memory_fixed {
            self.memory_mib = self.memory_mib.min(host_mib);
        }
    }
}

/// The host's memory in MiB; no bound when it cannot be read.
pub fn host_memory_mib() -> u32 {
    vm_launcher::config::host_memory_mib().ok().and_then(|mib| u32::try_from(mib).ok()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{DEFAULT_CPUS, DEFAULT_MEMORY_MIB},
        *,
    };

    const GUEST_NEED: u32 = GUEST_NEED_MIB as u32;

    fn sized(limits: Limits) -> (u8, u32) {
        let mut config = Config::default();
        config.size_on(limits, 4096, 8);
        (config.cpus, config.memory_mib)
    }

    #[test]
    fn without_limits_the_defaults_hold() {
        let none = Limits { cpu_quota: Some(-1), cpu_period: Some(100_000), memory: Some(-1) };
        for limits in [Limits::default(), none] {
            assert_eq!(sized(limits), (DEFAULT_CPUS, DEFAULT_MEMORY_MIB));
        }
    }

    #[test]
    fn cpus_are_rounded_up_and_clamped() {
        let limits = |quota| Limits { cpu_quota: Some(quota), cpu_period: Some(100_000), memory: None };
        assert_eq!(sized(limits(50_000)).0, 1);
        assert_eq!(sized(limits(150_000)).0, 2);
        assert_eq!(sized(limits(6_400_000)).0, 8);
    }

    #[test]
    fn memory_has_room_for_the_guest_and_ends_at_the_hosts() {
        let limits = |memory| Limits { memory: Some(memory), ..Limits::default() };
        assert_eq!(sized(limits(64 << 20)).1, DEFAULT_MEMORY_MIB + GUEST_NEED);
        assert_eq!(sized(limits(2 << 30)).1, 2048 + GUEST_NEED);
        assert_eq!(sized(limits(i64::MAX)).1, 4096);
    }

    #[test]
    fn a_ceiling_makes_room() {
        let mut config = Config { max_cpus: 4, max_memory_mib: 2048, ..Config::default() };
        config.size_on(Limits { memory: Some(64 << 20), ..Limits::default() }, 4096, 8);
        assert_eq!((config.cpus, config.memory_mib), (4, 2048 + GUEST_NEED));
        config.size_on(Limits { memory: Some(3 << 30), ..Limits::default() }, 4096, 8);
        assert_eq!(config.memory_mib, 3072 + GUEST_NEED);
    }

    #[test]
    fn an_annotations_size_is_kept() {
        let mut config = Config { memory_mib: 256, memory_fixed: true, ..Config::default() };
        let limits = Limits { memory: Some(4 << 30), cpu_quota: Some(200_000), cpu_period: Some(100_000) };
        config.size_on(limits, 4096, 8);
        assert_eq!((config.cpus, config.memory_mib), (2, 256));
    }
}
