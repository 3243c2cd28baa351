//! A container's metrics, from the files of its cgroup. A missing file (the kernel lacks the controller) counts as zeroes.
//! RPC: Stats.

use guest_protocol::api::{IoEntry, StatsResponse};
use linux::cgroup::{MEMORY_EVENTS, value_of};

use crate::cgroup::Cgroup;

/// Reads all metrics.
pub fn read(cgroup: &Cgroup) -> StatsResponse {
    let text = |file: &str| cgroup.read(file).unwrap_or_default();
    let mut stats = StatsResponse::new();
    let cpu = text("cpu.stat");
    let of = |key: &str| value_of(&cpu, key).unwrap_or(0);
    stats.cpu_usage_us = of("usage_usec");
    stats.cpu_user_us = of("user_usec");
    stats.cpu_system_us = of("system_usec");
    stats.cpu_nr_periods = of("nr_periods");
    stats.cpu_nr_throttled = of("nr_throttled");
    stats.cpu_throttled_us = of("throttled_usec");
    stats.memory_usage = number(&text("memory.current"));
    stats.memory_limit = limit(&text("memory.max"));
    stats.memory_max_usage = number(&text("memory.peak"));
    stats.memory_stat = pairs(&text("memory.stat")).collect();
    stats.memory_events = pairs(&text(MEMORY_EVENTS)).collect();
    stats.pids_current = number(&text("pids.current"));
    stats.pids_limit = limit(&text("pids.max"));
    stats.io = io_entries(&text("io.stat"));
    stats
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// `max` and a missing file mean no limit: the largest number.
fn limit(text: &str) -> u64 {
    text.trim().parse().unwrap_or(u64::MAX)
}

fn pairs(text: &str) -> impl Iterator<Item = (String, u64)> + '_ {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    })
}

fn io_entries(text: &str) -> Vec<IoEntry> {
    text.lines().filter_map(io_entry).collect()
}

fn io_entry(line: &str) -> Option<IoEntry> {
    let (device, fields) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let mut entry = IoEntry::new();
    entry.major = major.parse().ok()?;
    entry.minor = minor.parse().ok()?;
    for (key, value) in fields.split_whitespace().filter_map(|field| field.split_once('=')) {
        let value = value.parse().unwrap_or(0);
        match key {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            _ => {}
        }
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_lines_are_understood_and_empty_ones_skipped() {
        let text = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n253:1 \nnonsense\n";
        let entries = io_entries(text);
        assert_eq!(entries.len(), 2);
        let first = &entries[0];
        assert_eq!((first.major, first.minor, first.rbytes, first.wios), (8, 0, 1, 4));
    }

    #[test]
    fn max_is_no_limit() {
        assert_eq!(limit("max\n"), u64::MAX);
        assert_eq!(limit("67108864\n"), 67108864);
        assert_eq!(number("max"), 0);
    }

    #[test]
    fn pairs_keep_what_is_numeric() {
        let all: Vec<_> = pairs("anon 12\nfile 0\nbad x\n").collect();
        assert_eq!(all, [("anon".to_owned(), 12), ("file".to_owned(), 0)]);
    }
}
