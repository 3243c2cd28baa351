//! A container's resource use, from the guest's cgroup, as containerd's cgroup v2 metrics.

use containerd_shim_protos::{
    cgroups_v2::metrics::{CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat},
    protobuf::Message,
};
use guest_protocol::api::StatsResponse;

use crate::error::{Error, Result};

/// The bare type URL that containerd's clients know.
/// Source: containerd `api/types` typeurl registration of `github.com/containerd/cgroups/v3`.
pub const TYPE_URL: &str = "io.containerd.cgroups.v2.Metrics";

/// Encodes what the guest said as a `Metrics` message.
///
/// # Errors
/// When it cannot be encoded.
pub fn encode(stats: &StatsResponse) -> Result<Vec<u8>> {
    let metrics = metrics(stats);
    metrics.write_to_bytes().map_err(|e| Error::internal("encode the metrics").because(e))
}

fn metrics(stats: &StatsResponse) -> Metrics {
    Metrics {
        pids: Some(PidsStat { current: stats.pids_current, limit: stats.pids_limit, ..Default::default() })
            .into(),
        cpu: Some(CPUStat {
            usage_usec: stats.cpu_usage_us,
            user_usec: stats.cpu_user_us,
            system_usec: stats.cpu_system_us,
            nr_periods: stats.cpu_nr_periods,
            nr_throttled: stats.cpu_nr_throttled,
            throttled_usec: stats.cpu_throttled_us,
            ..Default::default()
        })
        .into(),
        memory: Some(memory(stats)).into(),
        memory_events: Some(memory_events(stats)).into(),
        io: Some(IOStat { usage: io(stats), ..Default::default() }).into(),
        ..Default::default()
    }
}

fn memory(stats: &StatsResponse) -> MemoryStat {
    let get = |key: &str| stats.memory_stat.get(key).copied().unwrap_or_default();
    MemoryStat {
        usage: stats.memory_usage,
        usage_limit: stats.memory_limit,
        max_usage: stats.memory_max_usage,
        anon: get("anon"),
        file: get("file"),
        kernel_stack: get("kernel_stack"),
        slab: get("slab"),
        sock: get("sock"),
        shmem: get("shmem"),
        file_mapped: get("file_mapped"),
        file_dirty: get("file_dirty"),
        file_writeback: get("file_writeback"),
        anon_thp: get("anon_thp"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        pgfault: get("pgfault"),
        pgmajfault: get("pgmajfault"),
        ..Default::default()
    }
}

fn memory_events(stats: &StatsResponse) -> MemoryEvents {
    let get = |key: &str| stats.memory_events.get(key).copied().unwrap_or_default();
    MemoryEvents {
        low: get("low"),
        high: get("high"),
        max: get("max"),
        oom: get("oom"),
        oom_kill: get("oom_kill"),
        ..Default::default()
    }
}

fn io(stats: &StatsResponse) -> Vec<IOEntry> {
    let entry = |io: &guest_protocol::api::IoEntry| IOEntry {
        major: io.major,
        minor: io.minor,
        rbytes: io.rbytes,
        wbytes: io.wbytes,
        rios: io.rios,
        wios: io.wios,
        ..Default::default()
    };
    stats.io.iter().map(entry).collect()
}
