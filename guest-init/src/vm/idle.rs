//! An idle guest gives back what it remembers of files that no process has mapped: the host has them as well, and other VMs want the
//! memory. The kernel reports the free pages to the host.

use std::fs;
use std::io;
use std::time::Duration;

use crate::boot::mounts::CGROUP_ROOT;

/// How often the guest is looked at: while it has something to give back, and else.
const SOON: Duration = Duration::from_secs(2);
const LATER: Duration = Duration::from_secs(10);

/// Looks in a row that must find it idle.
const CALM: u32 = 2;

/// What a guest may do between two looks and be idle: a twentieth of one CPU. In hundredths of a second, which /proc/stat counts in.
const IDLE_TICKS: u64 = SOON.as_secs() * 100 / 20;

/// How much is given back at a time, in MiB: PID 1 answers nobody meanwhile.
const PIECE: u64 = 16;

/// How long it does not try again after less came free than it wanted: the rest may be in use.
const REST: Duration = Duration::from_secs(60);

/// Gives back what is more than `keep` MiB, whenever the guest is idle.
pub async fn give_back(keep: u32) {
    let keep = u64::from(keep) << 20;
    let mut watch = Watch::default();
    loop {
        let excess = files_in_memory().unwrap_or(0).saturating_sub(keep);
        tokio::time::sleep(if excess > 0 { SOON } else { LATER }).await;
        if watch.finds_calm(busy_ticks(), excess > 0) && !reclaim(excess).await {
            tokio::time::sleep(REST).await;
        }
    }
}

/// Looks at a guest again and again.
#[derive(Default)]
struct Watch {
    busy: Option<u64>,
    calm: u32,
}

impl Watch {
    /// Whether the guest has been idle for long enough, with something to give back; it begins anew then. `busy` is the time that its
    /// CPUs have worked so far.
    fn finds_calm(&mut self, busy: Option<u64>, has_excess: bool) -> bool {
        let before = std::mem::replace(&mut self.busy, busy);
        let is_idle = busy.zip(before).is_some_and(|(now, then)| now.saturating_sub(then) <= IDLE_TICKS);
        self.calm = if is_idle && has_excess { self.calm + 1 } else { 0 };
        let is_calm = self.calm >= CALM;
        if is_calm {
            *self = Watch::default();
        }
        is_calm
    }
}

/// Frees so many bytes of files that are in memory; whether all of them could be.
async fn reclaim(bytes: u64) -> bool {
    for _ in 0..bytes.div_ceil(PIECE << 20) {
        match fs::write(format!("{CGROUP_ROOT}/memory.reclaim"), format!("{PIECE}M")) {
            Ok(()) => tokio::task::yield_now().await,
            // It has freed less.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                log::warn!("memory is not given back: memory.reclaim: {error}");
                return false;
            }
        }
    }
    true
}

/// The bytes of files that are in memory, that no process has mapped, and that could be read again.
fn files_in_memory() -> Option<u64> {
    in_memory(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn in_memory(meminfo: &str) -> Option<u64> {
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    // The kernel keeps what is mapped longer than the rest.
    Some((kib("Active(file):")? + kib("Inactive(file):")?).saturating_sub(kib("Mapped:")?) << 10)
}

/// The time that the CPUs have worked, in hundredths of a second.
fn busy_ticks() -> Option<u64> {
    worked(&fs::read_to_string("/proc/stat").ok()?)
}

/// Source: proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal.
fn worked(stat: &str) -> Option<u64> {
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    match fields[..] {
        [user, nice, system, _idle, _iowait, irq, softirq, ..] => Some(user + nice + system + irq + softirq),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_guest_that_stays_idle_is_calm() {
        let mut watch = Watch::default();
        let mut looks = |all: &[(u64, bool)]| {
            all.iter().map(|(busy, excess)| watch.finds_calm(Some(*busy), *excess)).collect::<Vec<_>>()
        };
        // The first look has nothing to compare with.
        assert_eq!(looks(&[(100, true), (105, true), (110, true)]), [false, false, true]);
        // It begins anew, and work puts it off, as does having nothing to give back.
        assert_eq!(
            looks(&[(110, true), (111, true), (200, true), (201, true), (202, true)]),
            [false, false, false, false, true]
        );
        assert_eq!(
            looks(&[(300, true), (300, true), (300, false), (300, true), (300, true)]),
            [false, false, false, false, true]
        );
        assert!(
            !watch.finds_calm(None, true) && !watch.finds_calm(None, true) && !watch.finds_calm(None, true)
        );
    }

    #[test]
    fn files_are_told_from_other_memory() {
        let text = "MemTotal: 1000 kB\nActive:  70 kB\nActive(anon): 30 kB\nActive(file):   40 kB\nInactive(file): 2 kB\nMapped: 12 kB\n";
        assert_eq!(in_memory(text), Some(30 << 10));
        assert_eq!(in_memory("MemTotal: 1000 kB\n"), None);
        assert!(files_in_memory().is_some());
    }

    #[test]
    fn waiting_is_no_work() {
        assert_eq!(worked("cpu  1 2 3 1000 500 4 5 6 0 0\ncpu0 9 9 9\n"), Some(15));
        assert_eq!(worked("intr 1"), None);
        assert!(busy_ticks().is_some());
    }
}
