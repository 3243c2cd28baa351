//! How the host treats a container: what it is to its sandbox, which limits hold, how soon it goes when memory is short.

use oci_spec::runtime::{LinuxResources, Spec};

use super::{for_host, own_limits, pod_of, resources};
use crate::config::Limits;

/// What a container is to its sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// All that is in it.
    Lone,
    /// A pod's first container, which is there for the pod and goes with it.
    Sandbox,
    /// One of a pod's others.
    Member,
}

impl Role {
    /// That of `container`, whose pod is called by the id of its first container.
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
    /// Those that the host enforces.
    pub hosts: Option<LinuxResources>,
    /// How soon the kernel is to end it when the host's memory runs out, from -1000 (never) to 1000; none when that is of
    /// no account.
    pub oom_score_adj: Option<i32>,
}

impl HostPolicy {
    /// Those of `spec`'s container, which is called `id`.
    pub fn of(spec: &Spec, id: &str) -> HostPolicy {
        let role = Role::of(pod_of(spec), id);
        let asked = spec.process().as_ref().and_then(|process| process.oom_score_adj());
        HostPolicy {
            role,
            limits: own_limits(spec),
            hosts: for_host(&resources(spec).cloned().unwrap_or_default(), role),
            // containerd protects every pod's first container, which is nothing to protect.
            oom_score_adj: (role != Role::Sandbox).then_some(asked.unwrap_or(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_first_container_is_not_what_is_protected() {
        let policy = |id, pod: Option<&str>| {
            let mut spec = json!({"ociVersion": "1.0.2", "annotations": {}, "process": {
                "cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}, "oomScoreAdj": -998,
            }});
            if let Some(pod) = pod {
                spec["annotations"]["io.kubernetes.cri.sandbox-id"] = json!(pod);
            }
            let policy = HostPolicy::of(&serde_json::from_value(spec).unwrap(), id);
            (policy.role, policy.oom_score_adj)
        };
        assert_eq!(policy("a", None), (Role::Lone, Some(-998)));
        assert_eq!(policy("a", Some("a")), (Role::Sandbox, None));
        assert_eq!(policy("b", Some("a")), (Role::Member, Some(-998)));
    }
}
