//! The size of a VM: from what somebody wrote, else from the limits of what runs in it.

use log::info;
pub use vmm::config::{MAX_CPUS, MIN_MEMORY_MIB};

use super::Config;

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

impl Config {
    /// Sizes the VM for `limits`, unless somebody wrote its size. Derived values are clamped to
    /// what can be had, and that is logged.
    pub fn size_for(&mut self, limits: Limits) {
        let cpus =
            std::thread::available_parallelism().map_or(MAX_CPUS, |n| n.get().min(MAX_CPUS.into()) as u8);
        self.size_on(limits, host_memory_mib(), cpus);
    }

    fn size_on(&mut self, limits: Limits, host_mib: u32, host_cpus: u8) {
        if let (false, Some(quota @ 1..), Some(period @ 1..)) =
            (self.cpus_fixed, limits.cpu_quota, limits.cpu_period)
        {
            let wanted = (quota as u64).div_ceil(period);
            self.cpus = wanted.min(u64::from(host_cpus)) as u8;
            if u64::from(self.cpus) != wanted {
                info!("the limit asks for {wanted} cpus: the VM gets {host_cpus}, all that can be had");
            }
        }
        if self.memory_fixed {
            return;
        }
        if let Some(bytes @ 1..) = limits.memory {
            let limit = (bytes as u64).div_ceil(1 << 20);
            let wanted = limit.max(u64::from(self.memory_mib)).saturating_add(GUEST_NEED_MIB);
            self.memory_mib = wanted.min(u64::from(host_mib)) as u32;
            if u64::from(self.memory_mib) != wanted {
                info!("the limit asks for {wanted} MiB: the VM gets {host_mib}, all that the host has");
            }
        }
        // A default beyond a small host is derived too.
        self.memory_mib = self.memory_mib.min(host_mib);
    }
}

/// The host's memory in MiB; without bound when it cannot be told.
pub fn host_memory_mib() -> u32 {
    vmm::config::host_memory_mib().ok().and_then(|mib| u32::try_from(mib).ok()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(limits: Limits) -> (u8, u32) {
        let mut config = Config::default();
        config.size_on(limits, 4096, 8);
        (config.cpus, config.memory_mib)
    }

    #[test]
    fn without_limits_the_defaults_hold() {
        assert_eq!(sized(Limits::default()), (1, 1024));
        assert_eq!(
            sized(Limits { cpu_quota: Some(-1), cpu_period: Some(100_000), memory: Some(-1) }),
            (1, 1024)
        );
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
        assert_eq!(sized(limits(64 << 20)).1, 1024 + 128);
        assert_eq!(sized(limits(2 << 30)).1, 2048 + 128);
        assert_eq!(sized(limits(i64::MAX)).1, 4096);
    }

    #[test]
    fn a_written_size_is_kept() {
        let mut config = Config { memory_mib: 256, memory_fixed: true, ..Config::default() };
        let limits = Limits { memory: Some(4 << 30), cpu_quota: Some(200_000), cpu_period: Some(100_000) };
        config.size_on(limits, 4096, 8);
        assert_eq!((config.cpus, config.memory_mib), (2, 256));
    }
}
