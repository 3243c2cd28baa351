//! Which limits hold where. The guest's kernel enforces a container's own; those in terms of the host's CPUs and disks
//! mean nothing there. For a lone container the host enforces them on the whole VM, and its CPU time once more, in case
//! the guest does not; in a pod that is what the pod's cgroup is for.

use oci_spec::runtime::LinuxResources;

use super::Role;

/// What cgroup v2's files begin with that name CPUs, disks and cards of the host, or its swap; the kubelet writes the
/// last. Source: the kernel's cgroup-v2.rst.
const HOSTS_FILES: [&str; 7] =
    ["cpuset.", "hugetlb.", "io.", "memory.swap.", "memory.zswap.", "misc.", "rdma."];

/// Takes out what means nothing in the guest; says what of it is not [the host's](for_host) to enforce either.
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

/// What the host enforces on the VM of a lone container. Not its memory: the VM's own size bounds that, and a guest that
/// may have less than it sees would be killed, not told. Not its processes: they are the guest's.
pub fn for_host(resources: &LinuxResources, role: Role) -> Option<LinuxResources> {
    if role != Role::Lone || (resources.cpu().is_none() && resources.block_io().is_none()) {
        return None;
    }
    let mut hosts = LinuxResources::default();
    // Its other parts have defaults that say something.
    hosts.set_devices(None);
    hosts.set_block_io(resources.block_io().clone());
    hosts.set_cpu(resources.cpu().clone().map(|mut cpu| {
        cpu.set_realtime_runtime(None);
        cpu.set_realtime_period(None);
        cpu
    }));
    Some(hosts)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
    fn the_host_bounds_a_lone_containers_cpus_and_disks() {
        let hosts = serde_json::to_value(for_host(&all(), Role::Lone).unwrap()).unwrap();
        let wanted = json!({
            "cpu": {"cpus": "0-3", "mems": "0", "shares": 512, "quota": 5000, "period": 10_000},
            "blockIO": {"weight": 10},
        });
        assert_eq!(hosts, wanted);
        let none: Value = json!({"memory": {"limit": 1024}, "devices": [{"allow": false, "access": "rwm"}]});
        assert_eq!(for_host(&serde_json::from_value(none).unwrap(), Role::Lone), None);
    }

    #[test]
    fn a_pods_bounds_are_its_cgroups() {
        assert_eq!(for_host(&all(), Role::Sandbox), None);
        assert_eq!(for_host(&all(), Role::Member), None);
    }
}
