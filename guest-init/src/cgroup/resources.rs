//! OCI resources as writes to files of cgroup v2. RPC: Update.
//!
//! The host takes out what means nothing in the guest (its CPUs, its devices). Device rules are not written here: an update
//! must never loosen what Create enforced.

use anyhow::Result;
use libcontainer::oci_spec::runtime::LinuxResources;

use crate::cgroup::Cgroup;

/// One value for one file.
type Write = (String, String);

/// Writes `resources` to the container's cgroup.
pub fn apply(cgroup: &Cgroup, resources: &LinuxResources) -> Result<()> {
    for (file, value) in writes(resources, |file| cgroup.read(file)) {
        cgroup.write(&file, &value)?;
    }
    Ok(())
}

fn writes(resources: &LinuxResources, read: impl Fn(&str) -> Option<String>) -> Vec<Write> {
    let mut list = Vec::new();
    let mut put = |file: &str, value: String| list.push((file.to_owned(), value));
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            put("cpu.weight", weight_of_shares(shares).to_string());
        }
        if cpu.quota().is_some() || cpu.period().is_some() {
            put("cpu.max", cpu_max(cpu.quota(), cpu.period(), read("cpu.max").as_deref()));
        }
        if let Some(burst) = cpu.burst() {
            put("cpu.max.burst", burst.to_string());
        }
        if let Some(idle) = cpu.idle() {
            put("cpu.idle", idle.to_string());
        }
    }
    if let Some(memory) = resources.memory() {
        if let Some(low) = memory.reservation() {
            put("memory.low", bytes(low));
        }
        // A kernel without swap lacks the file.
        if let (Some(swap), true) = (memory.swap(), read("memory.swap.max").is_some()) {
            put("memory.swap.max", swap_only(swap, memory.limit()));
        }
        if let Some(limit) = memory.limit() {
            put("memory.max", bytes(limit));
        }
    }
    if let Some(pids) = resources.pids() {
        put("pids.max", if pids.limit() <= 0 { "max".into() } else { pids.limit().to_string() });
    }
    for (file, value) in resources.unified().iter().flatten() {
        // A key must be the name of a cgroup's file.
        if !file.contains('/') && file.contains('.') {
            put(file, value.clone());
        }
    }
    list
}

/// cgroup v1's 2..262144 to v2's 1..10000, as runc maps it.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// The value of `cpu.max`. Of quota and period, the one that is not given stays as it is.
fn cpu_max(quota: Option<i64>, period: Option<u64>, current: Option<&str>) -> String {
    let mut now = current.unwrap_or_default().split_whitespace();
    let now_quota = now.next().unwrap_or("max").to_owned();
    let now_period = now.next().unwrap_or("100000").to_owned();
    let quota = match quota {
        Some(quota) if quota > 0 => quota.to_string(),
        Some(_) => "max".to_owned(),
        None => now_quota,
    };
    let period = period.filter(|period| *period != 0).map_or(now_period, |period| period.to_string());
    format!("{quota} {period}")
}

fn bytes(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

/// OCI's swap is memory plus swap; v2's is swap alone.
fn swap_only(swap: i64, memory: Option<i64>) -> String {
    match (swap, memory) {
        (swap, _) if swap < 0 => "max".into(),
        (swap, Some(memory)) if memory >= 0 => (swap - memory).max(0).to_string(),
        _ => "0".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: serde_json::Value) -> Vec<Write> {
        writes(&serde_json::from_value(json).unwrap(), |file| match file {
            "cpu.max" => Some("5000 50000\n".into()),
            _ => None,
        })
    }

    fn write(file: &str, value: &str) -> Write {
        (file.into(), value.into())
    }

    #[test]
    fn limits_become_writes() {
        let json = serde_json::json!({
            "memory": {"limit": 67108864, "reservation": -1},
            "pids": {"limit": 0},
            "cpu": {"shares": 1024, "quota": -1},
        });
        assert_eq!(
            of(json),
            [
                write("cpu.weight", "39"),
                write("cpu.max", "max 50000"),
                write("memory.low", "max"),
                write("memory.max", "67108864"),
                write("pids.max", "max"),
            ]
        );
    }

    #[test]
    fn nothing_asked_is_nothing_written() {
        assert_eq!(of(serde_json::json!({"cpu": {}, "memory": {}})), []);
    }

    #[test]
    fn scales_meet_at_their_ends() {
        assert_eq!((weight_of_shares(2), weight_of_shares(262_144)), (1, 10_000));
        assert_eq!(swap_only(100, Some(60)), "40");
    }

    #[test]
    fn unified_keys_are_file_names() {
        let json = serde_json::json!({"unified": {"../memory.max": "1", "memory.high": "5"}});
        assert_eq!(of(json), [write("memory.high", "5")]);
    }
}
