//! Which limits hold where. The guest's kernel enforces a container's own limits. Limits on the host's CPUs and disks
//! mean nothing there: for a lone container the host enforces them on the whole VM, and its CPU time again, in case the
//! guest does not. In a pod the pod's cgroup does that, and a container's own has its limits for whoever reads them there: nothing
//! is in it but the container's anchor. The host bounds the memory and threads of every VM.

use oci_spec::runtime::{LinuxMemory, LinuxPids, LinuxResources};

use super::Role;

/// Prefixes of the cgroup v2 files that name CPUs, disks and NICs of the host, or its swap; the kubelet writes
/// the last. Source: the kernel's cgroup-v2.rst.
const HOSTS_FILES: [&str; 7] =
    ["cpuset.", "hugetlb.", "io.", "memory.swap.", "memory.zswap.", "misc.", "rdma."];

/// Removes what means nothing in the guest. Returns what nobody enforces then, the host [neither](for_host).
pub fn keep_guests(resources: &mut LinuxResources, role: Role) -> Vec<&'static str> {
    let mut dropped = Vec::new();
    let in_pod = role != Role::Lone;
    if let Some(cpu) = resources.cpu_mut() {
        if cpu.cpus().is_some() || cpu.mems().is_some() {
            cpu.set_cpus(None);
            cpu.set_mems(None);
            dropped.extend(in_pod.then_some("cpu.cpus and cpu.mems"));
        }
        if cpu.realtime_runtime().is_some() || cpu.realtime_period().is_some() {
            cpu.set_realtime_runtime(None);
            cpu.set_realtime_period(None);
            dropped.push("cpu.realtimeRuntime and cpu.realtimePeriod");
        }
    }
    if resources.block_io().is_some() {
        resources.set_block_io(None);
        dropped.extend(in_pod.then_some("blockIO"));
    }
    if resources.network().is_some() {
        resources.set_network(None);
        dropped.push("network");
    }
    if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        resources.set_rdma(None);
        dropped.push("rdma");
    }
    if resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty()) {
        resources.set_hugepage_limits(None);
        dropped.push("hugepageLimits");
    }
    if let Some(unified) = resources.unified_mut() {
        let before = unified.len();
        unified.retain(|file, _| !HOSTS_FILES.iter().any(|prefix| file.starts_with(prefix)));
        if unified.len() < before {
            dropped.push("unified's files of cpuset, hugetlb, io, rdma and swap");
        }
    }
    dropped
}

/// The most processes and threads in a sandbox's cgroup on the host: the vmm has some thirty, the shim and its children
/// some hundreds at most. A container's own limit holds in the guest, where its processes are.
const MAX_THREADS: i64 = 1024;

/// A limit on memory, in bytes, that has room for an anchor.
const ROOM_FOR_AN_ANCHOR: i64 = 16 << 20;

/// What the host enforces on the cgroup of a container with these resources: a bound on threads where a VM is in it,
/// and a lone container's own limits. Not its limit on memory: the guest enforces that, and the host would kill a guest
/// that uses what it sees.
pub fn for_host(resources: &LinuxResources, role: Role) -> LinuxResources {
    let mut hosts = LinuxResources::default();
    // By default it has device rules.
    hosts.set_devices(None);
    let mut pids = LinuxPids::default();
    pids.set_limit(MAX_THREADS);
    hosts.set_pids(Some(pids));
    let mut cpu = resources.cpu().clone();
    if let Some(cpu) = &mut cpu {
        cpu.set_realtime_runtime(None);
        cpu.set_realtime_period(None);
    }
    match role {
        Role::Lone => {
            hosts.set_block_io(resources.block_io().clone());
            hosts.set_cpu(cpu);
        }
        Role::Sandbox => {}
        Role::Member => {
            if let Some(cpu) = &mut cpu {
                cpu.set_cpus(None);
                cpu.set_mems(None);
            }
            let limit = resources.memory().and_then(|memory| memory.limit());
            hosts.set_memory(limit.filter(|limit| *limit < 0 || *limit >= ROOM_FOR_AN_ANCHOR).map(limit_of));
            hosts.set_cpu(cpu);
            hosts.set_pids(*resources.pids());
        }
    }
    hosts
}

fn limit_of(bytes: i64) -> LinuxMemory {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(bytes));
    memory
}

/// What a VM may use on the host beyond its guest's memory: the vmm itself, and what the kernel keeps for it, above all
/// for the files that the guest has looked up. An idle vmm needs far less; this is a bound, and not a measured need.
const OVERHEAD_MIB: i64 = 512;

/// Adds a bound on the memory of a cgroup with a VM in it, whose guest has this much.
pub fn bound_memory(mut hosts: LinuxResources, memory_mib: u32) -> LinuxResources {
    hosts.set_memory(Some(limit_of((i64::from(memory_mib) + OVERHEAD_MIB) << 20)));
    hosts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn all() -> LinuxResources {
        let resources = json!({
            "cpu": {"cpus": "0-3", "mems": "0", "shares": 512, "quota": 5000, "period": 10_000, "realtimeRuntime": 1},
            "memory": {"limit": 1024}, "pids": {"limit": 7}, "blockIO": {"weight": 10},
            "unified": {"memory.swap.max": "0", "memory.oom.group": "1"},
        });
        serde_json::from_value(resources).unwrap()
    }

    #[test]
    fn the_guest_has_what_its_kernel_can_enforce() {
        for (role, dropped) in [(Role::Lone, 2), (Role::Member, 4), (Role::Sandbox, 4)] {
            let mut resources = all();
            assert_eq!(keep_guests(&mut resources, role).len(), dropped);
            let guests = json!({
                "cpu": {"shares": 512, "quota": 5000, "period": 10_000}, "memory": {"limit": 1024},
                "pids": {"limit": 7}, "unified": {"memory.oom.group": "1"},
            });
            assert_eq!(serde_json::to_value(resources).unwrap(), guests);
        }
    }

    #[test]
    fn the_host_bounds_a_lone_containers_cpus_and_disks_and_every_vm() {
        let hosts =
            |resources: &LinuxResources, role| serde_json::to_value(for_host(resources, role)).unwrap();
        let own = json!({
            "cpu": {"cpus": "0-3", "mems": "0", "shares": 512, "quota": 5000, "period": 10_000},
            "blockIO": {"weight": 10}, "pids": {"limit": MAX_THREADS},
        });
        assert_eq!(hosts(&all(), Role::Lone), own);
        let vms = json!({"pids": {"limit": MAX_THREADS}});
        assert_eq!(hosts(&all(), Role::Sandbox), vms);
        let members = json!({"cpu": {"shares": 512, "quota": 5000, "period": 10_000}, "pids": {"limit": 7}});
        assert_eq!(hosts(&all(), Role::Member), members, "no anchor would fit into 1024 bytes");
        let more = json!({"memory": {"limit": 64 << 20}});
        assert_eq!(hosts(&serde_json::from_value(more.clone()).unwrap(), Role::Member), more);
        let none = json!({"memory": {"limit": 1024}, "devices": [{"allow": false, "access": "rwm"}]});
        assert_eq!(hosts(&serde_json::from_value(none).unwrap(), Role::Lone), vms);
    }
}
