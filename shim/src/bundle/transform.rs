//! From the host's spec to the guest's: a list of named steps, each a pure function.
//!
//! A step either makes something work in the guest, or removes what cannot exist there and notes
//! it. What protects the host or the container (seccomp, device rules, capabilities) is never
//! removed: the guest enforces it, or refuses the container.

use std::{collections::HashMap, path::Path};

use guest_protocol::boot::{NAMESPACE_OF, rootfs_path};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, PosixRlimit, Spec};

use super::{GuestBundle, Role, devices, keep_guests, mounts, pod_of, rlimits};
use crate::{error::Result, files::pin::Source};

/// What a step may read besides the spec.
pub struct Context<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The id of its pod's sandbox container, which may be its own; none for a lone container.
    pub pod: Option<&'a str>,
    /// The host.
    pub host: &'a Host,
}

/// What the steps need to know of the host.
pub struct Host {
    /// Its hostname.
    pub name: String,
    /// Resolves the source of a bind mount.
    pub resolve: fn(&Path) -> Result<Source>,
    /// The sandbox's containers by their pid on the host.
    pub containers: HashMap<u32, String>,
    /// Limits of a process that names none of the kind.
    pub rlimits: Vec<PosixRlimit>,
    /// How soon the kernel kills a process that does not say it, from 0 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Whether the guest has a /dev/kvm of its own.
    pub kvm: bool,
}

type Step = fn(GuestBundle, &Context) -> Result<GuestBundle>;

/// The steps, in their order.
const STEPS: &[Step] = &[
    root,
    namespaces,
    cgroup,
    host_labels,
    devices::hosts,
    host_resources,
    no_swap,
    host_hooks,
    rlimits::inherited,
    mounts::shared_memory,
    mounts::binds,
    mounts::pods_shared_memory,
];

/// The guest's bundle for a container.
///
/// # Errors
/// `INVALID_ARGUMENT` when the spec asks for what a guest cannot have and must not do without.
pub fn to_guest(spec: Spec, id: &str, host: &Host) -> Result<GuestBundle> {
    let pod = pod_of(&spec).map(str::to_owned);
    let context = Context { id, pod: pod.as_deref(), host };
    let bundle = GuestBundle { spec, volumes: Vec::new(), disks: Vec::new(), notes: Vec::new() };
    STEPS.iter().try_fold(bundle, |bundle, step| step(bundle, &context))
}

/// Names the rootfs by its path in the share.
fn root(mut bundle: GuestBundle, context: &Context) -> Result<GuestBundle> {
    if let Some(root) = bundle.spec.root_mut() {
        root.set_path(format!("/{}", rootfs_path(context.id)).into());
    }
    Ok(bundle)
}

/// Replaces the host's namespaces. The network is the VM's. In a pod, a namespace with a path is that of the container
/// whose process the path names (`kubectl debug --target`), or else of the sandbox container.
fn namespaces(mut bundle: GuestBundle, context: &Context) -> Result<GuestBundle> {
    let Some(linux) = bundle.spec.linux_mut() else { return Ok(bundle) };
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.retain(|ns| ns.typ() != LinuxNamespaceType::Network);
    let pod = context.pod.filter(|pod| *pod != context.id);
    for namespace in &mut namespaces {
        if namespace.typ() == LinuxNamespaceType::User {
            // The VM has one.
            namespace.set_path(None);
            continue;
        }
        let shared = pod.zip(namespace.path().as_deref()).map(|(pod, path)| {
            let named = process_of(path).and_then(|pid| context.host.containers.get(&pid));
            format!("{NAMESPACE_OF}{}", named.map_or(pod, String::as_str))
        });
        namespace.set_path(shared.map(Into::into));
    }
    if namespaces.iter().all(|ns| ns.typ() != LinuxNamespaceType::User) {
        // They are empty.
        linux.set_uid_mappings(None);
        linux.set_gid_mappings(None);
    }
    let has = |kind| namespaces.iter().any(|ns: &LinuxNamespace| ns.typ() == kind);
    let host_uts = !has(LinuxNamespaceType::Uts);
    for (wanted, what) in [(LinuxNamespaceType::Pid, "pid"), (LinuxNamespaceType::Ipc, "ipc")] {
        if !has(wanted) {
            bundle.notes.push(format!("the host's {what} namespace was asked for: it is the VM's"));
        }
    }
    if host_uts {
        bundle
            .notes
            .push("the host's uts namespace was asked for: it has the host's name, in its own".to_owned());
        let mut own = LinuxNamespace::default();
        own.set_typ(LinuxNamespaceType::Uts);
        namespaces.push(own);
    }
    linux.set_namespaces(Some(namespaces));
    if host_uts {
        bundle.spec.set_hostname(Some(context.host.name.clone()));
    }
    Ok(bundle)
}

/// The process whose namespace a path is, like /proc/7/ns/pid.
fn process_of(path: &Path) -> Option<u32> {
    path.strip_prefix("/proc").ok()?.iter().next()?.to_str()?.parse().ok()
}

/// Names the cgroup in the guest's own hierarchy.
fn cgroup(mut bundle: GuestBundle, context: &Context) -> Result<GuestBundle> {
    if let Some(linux) = bundle.spec.linux_mut() {
        linux.set_cgroups_path(Some(format!("/krun/{}", context.id).into()));
    }
    Ok(bundle)
}

/// Removes AppArmor, SELinux and resctrl, which the guest's kernel does not have. The vmm gets the AppArmor profile of the
/// container that its VM is made for.
fn host_labels(mut bundle: GuestBundle, context: &Context) -> Result<GuestBundle> {
    let mut dropped = Vec::new();
    if let Some(process) = bundle.spec.process_mut() {
        if process.apparmor_profile().is_some() {
            process.set_apparmor_profile(None);
            if Role::of(context.pod, context.id) == Role::Member {
                dropped.push("process.apparmorProfile");
            }
        }
        if process.selinux_label().is_some() {
            process.set_selinux_label(None);
            dropped.push("process.selinuxLabel");
        }
    }
    if let Some(linux) = bundle.spec.linux_mut() {
        if linux.mount_label().is_some() {
            linux.set_mount_label(None);
            dropped.push("linux.mountLabel");
        }
        if linux.intel_rdt().is_some() {
            linux.set_intel_rdt(None);
            dropped.push("linux.intelRdt");
        }
    }
    bundle.notes.extend(dropped.into_iter().map(|what| format!("{what} is the host's, and dropped")));
    Ok(bundle)
}

/// Removes limits on the host's CPUs, disks and NICs.
fn host_resources(mut bundle: GuestBundle, context: &Context) -> Result<GuestBundle> {
    let role = Role::of(context.pod, context.id);
    let resources = bundle.spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    let dropped = resources.map(|resources| keep_guests(resources, role)).unwrap_or_default();
    let notes = dropped
        .into_iter()
        .map(|what| format!("linux.resources.{what} names things of the host, and is dropped"));
    bundle.notes.extend(notes);
    Ok(bundle)
}

/// Removes limits on swap, which all hold in a guest without swap. Removes "no limit" on memory too, which is a
/// cgroup's default: libcontainer would lift the limit on swap with it, and its file is not there.
fn no_swap(mut bundle: GuestBundle, _: &Context) -> Result<GuestBundle> {
    let resources = bundle.spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    if let Some(memory) = resources.and_then(|resources| resources.memory_mut().as_mut()) {
        memory.set_swap(None);
        memory.set_limit(memory.limit().filter(|limit| *limit >= 0));
    }
    Ok(bundle)
}

/// Removes the hooks, which run on the host.
fn host_hooks(mut bundle: GuestBundle, _: &Context) -> Result<GuestBundle> {
    bundle.spec.set_hooks(None);
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn host() -> Host {
        let containers = HashMap::from([(9, "pod".to_owned()), (11, "other".to_owned())]);
        Host {
            name: "node-7".to_owned(),
            resolve: Source::resolve,
            containers,
            rlimits: Vec::new(),
            oom_score_adj: None,
            kvm: false,
        }
    }

    /// The guest's spec and notes for a spec whose `linux` and `process` have these fields.
    fn guest(linux: Value, process: Value) -> (Value, Vec<String>) {
        let mut spec = json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": {},
            "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}},
        });
        for (part, fields) in [("linux", linux), ("process", process)] {
            spec[part].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        }
        let bundle = to_guest(serde_json::from_value(spec).unwrap(), "c1", &host()).unwrap();
        (serde_json::to_value(bundle.spec).unwrap(), bundle.notes)
    }

    #[test]
    fn root_and_cgroup_are_the_guests() {
        let (spec, _) = guest(json!({"cgroupsPath": "/default/c1"}), json!({}));
        assert_eq!(spec["root"]["path"], "/containers/c1/rootfs");
        assert_eq!(spec["linux"]["cgroupsPath"], "/krun/c1");
    }

    #[test]
    fn namespaces_lose_their_paths_and_the_network() {
        let namespaces = json!([{"type": "pid"}, {"type": "network", "path": "/run/netns/x"},
            {"type": "ipc", "path": "/proc/1/ns/ipc"}, {"type": "uts"}, {"type": "mount"}]);
        let (spec, notes) = guest(json!({ "namespaces": namespaces }), json!({}));
        assert_eq!(
            spec["linux"]["namespaces"],
            json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}])
        );
        assert_eq!(notes, Vec::<String>::new());
    }

    #[test]
    fn a_pods_containers_share_its_sandboxs_namespaces() {
        let spec = json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"},
            "annotations": {"io.kubernetes.cri.sandbox-id": "pod"},
            "mounts": [{"destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["rbind", "ro"]}],
            "linux": {"namespaces": [
                {"type": "ipc", "path": "/proc/9/ns/ipc"}, {"type": "uts", "path": "/proc/9/ns/uts"}, {"type": "pid"},
            ]},
        });
        let guest = |id| to_guest(serde_json::from_value(spec.clone()).unwrap(), id, &host()).unwrap();
        let app = serde_json::to_value(guest("app").spec).unwrap();
        assert_eq!(
            app["linux"]["namespaces"],
            json!([
                {"type": "ipc", "path": "/containers/pod"}, {"type": "uts", "path": "/containers/pod"}, {"type": "pid"},
            ])
        );
        assert_eq!(app["mounts"][0]["type"], "bind");
        assert_eq!(app["mounts"][0]["source"], "/dev/shm");
        assert!(guest("app").volumes.is_empty());
        let sandbox = serde_json::to_value(guest("pod").spec).unwrap();
        assert_eq!(
            sandbox["linux"]["namespaces"],
            json!([{"type": "ipc"}, {"type": "uts"}, {"type": "pid"}])
        );
    }

    #[test]
    fn a_path_of_another_containers_process_names_that_container() {
        let spec = json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"},
            "annotations": {"io.kubernetes.cri.sandbox-id": "pod"},
            "linux": {"namespaces": [
                {"type": "pid", "path": "/proc/11/ns/pid"}, {"type": "ipc", "path": "/proc/9/ns/ipc"},
                {"type": "uts", "path": "/proc/12/ns/uts"},
            ]},
        });
        let guest = to_guest(serde_json::from_value(spec).unwrap(), "debugger", &host()).unwrap();
        let paths = serde_json::to_value(guest.spec).unwrap()["linux"]["namespaces"].clone();
        assert_eq!(paths[0]["path"], "/containers/other");
        assert_eq!(paths[1]["path"], "/containers/pod");
        assert_eq!(paths[2]["path"], "/containers/pod", "of a process that is none of its pod");
    }

    #[test]
    fn the_hosts_uts_namespace_is_one_with_its_name() {
        let (spec, notes) = guest(json!({"namespaces": [{"type": "pid"}, {"type": "ipc"}]}), json!({}));
        assert_eq!(spec["linux"]["namespaces"][2], json!({"type": "uts"}));
        assert_eq!(spec["hostname"], "node-7");
        assert_eq!(notes.len(), 1, "{notes:?}");
    }

    #[test]
    fn host_namespaces_are_the_vms_and_noted() {
        let (_, notes) =
            guest(json!({"namespaces": [{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]}), json!({}));
        assert_eq!(notes, ["the host's pid namespace was asked for: it is the VM's"]);
    }

    #[test]
    fn host_labels_are_dropped_and_noted() {
        let namespaces = json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}]);
        let linux = json!({"namespaces": namespaces, "mountLabel": "l", "intelRdt": {"closID": "x"}});
        let (spec, notes) =
            guest(linux, json!({"apparmorProfile": "cri-containerd.apparmor.d", "selinuxLabel": "l"}));
        assert!(spec["process"].get("apparmorProfile").is_none());
        assert!(spec["linux"].get("intelRdt").is_none());
        assert_eq!(notes.len(), 3, "{notes:?}");
    }

    #[test]
    fn seccomp_devices_rules_and_capabilities_stay() {
        let linux = json!({
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
            "resources": {"devices": [{"allow": false, "access": "rwm"}], "cpu": {"cpus": "0-3", "shares": 512}},
        });
        let (spec, _) = guest(linux, json!({"capabilities": {"bounding": ["CAP_KILL"]}}));
        assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], false);
        assert_eq!(spec["linux"]["resources"]["cpu"], json!({"shares": 512}));
        assert_eq!(spec["process"]["capabilities"]["bounding"], json!(["CAP_KILL"]));
    }

    #[test]
    fn limits_on_swap_are_removed() {
        let (spec, _) = guest(json!({"resources": {"memory": {"limit": 64, "swap": 128}}}), json!({}));
        assert_eq!(spec["linux"]["resources"]["memory"], json!({"limit": 64}));
        let unified = json!({"memory.swap.max": "0", "memory.oom.group": "1"});
        let (spec, notes) = guest(json!({"resources": {"unified": unified}}), json!({}));
        assert_eq!(spec["linux"]["resources"]["unified"], json!({"memory.oom.group": "1"}));
        assert!(notes.iter().any(|note| note.contains("swap")), "{notes:?}");
        let (spec, _) = guest(json!({"resources": {"memory": {"limit": -1, "swap": -1}}}), json!({}));
        assert_eq!(spec["linux"]["resources"]["memory"], json!({}));
    }
}
