//! How the host treats a container: what it is to its sandbox, which limits hold, how soon it goes when memory is
//! short.

use oci_spec::runtime::{LinuxResources, Spec};

use super::{apparmor, bound_memory, for_host, own_limits, pod_of, resources};
use crate::{config::Limits, error::Result};

/// What a container is to its sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its only container.
    Lone,
    /// A pod's sandbox container, which lives as long as the pod.
    Sandbox,
    /// Another container of a pod.
    Member,
}

impl Role {
    /// The role of `container`; a pod has the id of its sandbox container.
    pub fn of(pod: Option<&str>, container: &str) -> Role {
        match pod {
            None => Role::Lone,
            Some(pod) if pod == container => Role::Sandbox,
            Some(_) => Role::Member,
        }
    }
}

/// How the host treats a container, apart from what it shares with it.
#[derive(Debug, Clone)]
pub struct HostPolicy {
    /// What it is to its sandbox.
    pub role: Role,
    /// Its limits, which the guest enforces.
    pub limits: Limits,
    /// The limits that the host enforces.
    pub hosts: LinuxResources,
    /// How soon the kernel kills it when the host's memory runs out, from -1000 (never) to 1000; none when its VM need
    /// not regard it.
    pub oom_score_adj: Option<i32>,
    /// The AppArmor profile of its VM if that is made for it: a pod's other containers do not change it.
    pub apparmor_profile: Option<String>,
}

impl HostPolicy {
    /// The policy for `spec`'s container, whose id is `id`, and whose VM has this much memory if it is made for it.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names what cannot be.
    pub fn of(spec: &Spec, id: &str, memory_mib: u32) -> Result<HostPolicy> {
        let role = Role::of(pod_of(spec), id);
        let asked = spec.process().as_ref().and_then(|process| process.oom_score_adj());
        Ok(HostPolicy {
            role,
            limits: own_limits(spec),
            hosts: match for_host(&resources(spec).cloned().unwrap_or_default(), role) {
                members if role == Role::Member => members,
                vms => bound_memory(vms, memory_mib),
            },
            // containerd protects every pod's sandbox container, which does not need it.
            oom_score_adj: (role != Role::Sandbox).then_some(asked.unwrap_or(0)),
            apparmor_profile: apparmor::profile(spec)?.filter(|_| role != Role::Member),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_sandbox_container_is_not_protected() {
        let policy = |id, pod: Option<&str>| {
            let mut spec = json!({"ociVersion": "1.0.2", "annotations": {}, "process": {
                "cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}, "oomScoreAdj": -998, "apparmorProfile": "p",
            }});
            if let Some(pod) = pod {
                spec["annotations"]["io.kubernetes.cri.sandbox-id"] = json!(pod);
            }
            let policy = HostPolicy::of(&serde_json::from_value(spec).unwrap(), id, 1024).unwrap();
            let memory = policy.hosts.memory().and_then(|memory| memory.limit());
            assert_eq!(memory.is_some(), policy.role != Role::Member, "a VM is bounded");
            assert_eq!(
                policy.apparmor_profile.is_some(),
                policy.role != Role::Member,
                "a VM has one profile"
            );
            (policy.role, policy.oom_score_adj)
        };
        assert_eq!(policy("a", None), (Role::Lone, Some(-998)));
        assert_eq!(policy("a", Some("a")), (Role::Sandbox, None));
        assert_eq!(policy("b", Some("a")), (Role::Member, Some(-998)));
    }
}
