//! A bundle: read once, then turned into the guest's by a list of small pure functions ([`transform`]).

pub mod apparmor;
mod devices;
mod enforcement;
mod exec;
pub mod executable;
mod load;
mod mounts;
mod policy;
mod rlimits;
mod root;
mod transform;
mod users;
pub mod view;
mod volume;

use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};

pub use enforcement::{bound_memory, for_host, keep_guests};
pub use exec::to_guest_process;
pub use load::{load, parse};
pub use policy::{HostPolicy, Role};
pub use rlimits::{own as own_rlimits, own_oom_score_adj};
pub use root::{Root, rootfs_of};
pub use transform::{Host, to_guest};
pub use users::{Owners, check as check_ranges, user_namespace};
pub use volume::{FileVolume, Volume};

use crate::{
    config::{Limits, Origin},
    error::Result,
    files::status::PodName,
    id,
};

/// What a spec is turned into: the guest's own spec, and what the host does for it.
#[derive(Debug, Clone)]
pub struct GuestBundle {
    /// The guest's config.json.
    pub spec: Spec,
    /// In the order of their numbers.
    pub volumes: Vec<Volume>,
    /// Block devices of the host that it has.
    pub disks: Vec<HostDisk>,
    /// What was removed or changed because a guest cannot have it, for the log.
    pub notes: Vec<String>,
}

/// A block device of the host that a container asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDisk {
    /// Its path in the container, for messages.
    pub path: PathBuf,
    /// Its numbers.
    pub major: i64,
    pub minor: i64,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// Annotations that put a container into another's sandbox; the first of these that a spec has counts.
/// Source: containerd `cmd/containerd-shim-runc-v2/manager/manager_linux.go`.
const GROUP_ANNOTATIONS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// The id of the container whose pod `spec`'s container belongs to, which may be its own.
pub fn pod_of(spec: &Spec) -> Option<&str> {
    group_of(spec).map(|(_, id)| id)
}

fn group_of(spec: &Spec) -> Option<(&str, &str)> {
    let annotations = spec.annotations().as_ref()?;
    GROUP_ANNOTATIONS.iter().find_map(|name| annotations.get(*name).map(|id| (*name, id.as_str())))
}

/// Refuses a spec whose pod has an id that is none.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the annotation.
pub fn check_pod(spec: &Spec) -> Result<()> {
    match group_of(spec) {
        Some((name, id)) => id::check(&format!("annotation {name}"), id),
        None => Ok(()),
    }
}

/// What the names of the CRI's annotations begin with, with containerd and with CRI-O. A pod's author cannot set or remove
/// them. Source: containerd `internal/cri/annotations/annotations.go`, CRI-O `pkg/annotations`.
const CRI: [&str; 2] = ["io.kubernetes.cri.", "io.kubernetes.cri-o."];

/// What Kubernetes calls the pod, in annotations of its sandbox container. Source: containerd `internal/cri/annotations/annotations.go`.
const POD_NAME: [&str; 3] = [
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.cri.sandbox-uid",
];

/// The most characters of each. Source: Kubernetes allows 253 (`apimachinery/pkg/util/validation`).
const MAX_POD_NAME: usize = 253;

/// What Kubernetes calls the pod that `spec`'s container belongs to. What is no such name is none.
pub fn pod_name(spec: &Spec) -> Option<PodName> {
    let annotations = spec.annotations().as_ref()?;
    let is_name = |name: &str| {
        (1..=MAX_POD_NAME).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
    };
    let [name, namespace, uid] = POD_NAME.map(|key| annotations.get(key).filter(|name| is_name(name)));
    Some(PodName {
        name: name?.clone(),
        namespace: namespace.cloned().unwrap_or_default(),
        uid: uid.cloned().unwrap_or_default(),
    })
}

/// Where `spec`'s container comes from, whose id is `id`.
pub fn origin(spec: &Spec, id: &str) -> Origin {
    let mut names = spec.annotations().iter().flatten().map(|(name, _)| name);
    match names.any(|name| CRI.iter().any(|prefix| name.starts_with(prefix))) {
        false => Origin::Host,
        true if Role::of(pod_of(spec), id) == Role::Member => Origin::PodMember,
        true => Origin::Pod,
    }
}

/// The network namespace that a spec asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkNamespace {
    /// The host's own.
    Host,
    /// A new one.
    New,
    /// An existing one.
    Path(PathBuf),
}

/// The network namespace of `spec`'s container.
pub fn network_namespace(spec: &Spec) -> NetworkNamespace {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let network = namespaces.into_iter().flatten().find(|ns| ns.typ() == LinuxNamespaceType::Network);
    match network.map(|ns| ns.path()) {
        None => NetworkNamespace::Host,
        Some(None) => NetworkNamespace::New,
        Some(Some(path)) => NetworkNamespace::Path(path.clone()),
    }
}

/// Annotations of a pod's sandbox container with the limits of all its containers together: quota and period in
/// microseconds, memory in bytes; 0 for no limit. Source: containerd `internal/cri/annotations/annotations.go`.
const POD_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const POD_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
const POD_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";

/// The limits that `spec` declares for its container, or for its pod.
pub fn limits(spec: &Spec) -> Limits {
    let annotation = |name| spec.annotations().as_ref().and_then(|all| all.get(name)?.parse::<i64>().ok());
    if let Some(quota) = annotation(POD_QUOTA) {
        return Limits {
            cpu_quota: Some(quota),
            cpu_period: annotation(POD_PERIOD).and_then(|period| u64::try_from(period).ok()),
            memory: annotation(POD_MEMORY),
        };
    }
    own_limits(spec)
}

fn own_limits(spec: &Spec) -> Limits {
    resources(spec).map(Limits::of).unwrap_or_default()
}

fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref()?.resources().as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_makes_is_told_from_what_root_makes() {
        let of = |annotations: serde_json::Value| {
            let spec = serde_json::json!({"ociVersion": "1.0.2", "annotations": annotations});
            origin(&serde_json::from_value(spec).unwrap(), "a")
        };
        let id = "io.kubernetes.cri.sandbox-id";
        assert_eq!(of(serde_json::json!({})), Origin::Host);
        assert_eq!(of(serde_json::json!({"io.containerd.runc.v2.group": "b"})), Origin::Host);
        assert_eq!(
            of(serde_json::json!({id: "a", "io.kubernetes.cri.container-type": "sandbox"})),
            Origin::Pod
        );
        assert_eq!(of(serde_json::json!({id: "b"})), Origin::PodMember);
        assert_eq!(of(serde_json::json!({"io.kubernetes.cri-o.ContainerType": "sandbox"})), Origin::Pod);
    }

    #[test]
    fn a_pods_limits_are_its_annotations() {
        let spec = serde_json::json!({
            "ociVersion": "1.0.2",
            "annotations": {POD_QUOTA: "250000", POD_PERIOD: "100000", POD_MEMORY: "1048576"},
            "linux": {"resources": {"cpu": {"shares": 2}}},
        });
        let limits = limits(&serde_json::from_value(spec).unwrap());
        assert_eq!(
            limits,
            Limits { cpu_quota: Some(250_000), cpu_period: Some(100_000), memory: Some(1 << 20) }
        );
    }
}
