//! Limits of a process, and its standing when memory is short, that its spec does not set. With runc they are inherited from
//! containerd; the guest's would be others.

use nix::sys::resource::{Resource, getrlimit};
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use super::{GuestBundle, transform::Context};
use crate::error::Result;

/// The most files that a process of the guest's may have open. Source: `fs.nr_open` of Linux, by default.
const NR_OPEN: u64 = 1 << 20;

/// Those that mean the same in a guest. How many processes a user may have, and how many signals may wait for them, the kernel
/// derives from a machine's memory.
const INHERITED: [(Resource, PosixRlimitType); 13] = [
    (Resource::RLIMIT_AS, PosixRlimitType::RlimitAs),
    (Resource::RLIMIT_CORE, PosixRlimitType::RlimitCore),
    (Resource::RLIMIT_CPU, PosixRlimitType::RlimitCpu),
    (Resource::RLIMIT_DATA, PosixRlimitType::RlimitData),
    (Resource::RLIMIT_FSIZE, PosixRlimitType::RlimitFsize),
    (Resource::RLIMIT_LOCKS, PosixRlimitType::RlimitLocks),
    (Resource::RLIMIT_MEMLOCK, PosixRlimitType::RlimitMemlock),
    (Resource::RLIMIT_MSGQUEUE, PosixRlimitType::RlimitMsgqueue),
    (Resource::RLIMIT_NICE, PosixRlimitType::RlimitNice),
    (Resource::RLIMIT_NOFILE, PosixRlimitType::RlimitNofile),
    (Resource::RLIMIT_RSS, PosixRlimitType::RlimitRss),
    (Resource::RLIMIT_RTPRIO, PosixRlimitType::RlimitRtprio),
    (Resource::RLIMIT_STACK, PosixRlimitType::RlimitStack),
];

/// This process's limits, which it has from containerd.
pub fn own() -> Vec<PosixRlimit> {
    let limit = |(resource, kind): &(Resource, PosixRlimitType)| {
        let (soft, hard) = getrlimit(*resource).ok()?;
        let most = if *kind == PosixRlimitType::RlimitNofile { NR_OPEN } else { u64::MAX };
        limit_of(*kind, soft.min(most), hard.min(most))
    };
    INHERITED.iter().filter_map(limit).collect()
}

/// This process's standing when memory is short, which containerd gave it, as runc's shim. One below 0 protects from the host's
/// kernel, and would have the guest's kill others first.
#[expect(clippy::disallowed_methods, reason = "a constant path of /proc")]
pub fn own_oom_score_adj() -> Option<i32> {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?;
    text.trim().parse().ok().map(|score: i32| score.max(0))
}

fn limit_of(kind: PosixRlimitType, soft: u64, hard: u64) -> Option<PosixRlimit> {
    PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().ok()
}

/// Sets the host's where the spec has none of the kind.
pub fn inherited(mut bundle: GuestBundle, context: &Context) -> Result<GuestBundle> {
    if let Some(process) = bundle.spec.process_mut() {
        let mut limits = process.rlimits().clone().unwrap_or_default();
        let missing =
            context.host.rlimits.iter().filter(|ours| limits.iter().all(|set| set.typ() != ours.typ()));
        let missing: Vec<_> = missing.cloned().collect();
        limits.extend(missing);
        process.set_rlimits(Some(limits));
        process.set_oom_score_adj(process.oom_score_adj().or(context.host.oom_score_adj));
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{
        super::transform::{Host, to_guest},
        *,
    };
    use crate::files::pin::Source;

    #[test]
    fn a_limit_that_the_spec_does_not_set_is_the_hosts() {
        let limit = |kind, value| limit_of(kind, value, value).unwrap();
        let rlimits = vec![limit(PosixRlimitType::RlimitNofile, 7), limit(PosixRlimitType::RlimitCore, 8)];
        let host = Host {
            name: String::new(),
            resolve: Source::resolve,
            containers: HashMap::new(),
            rlimits,
            oom_score_adj: Some(5),
            kvm: false,
        };
        let mut spec = serde_json::json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": {}, "process":
            {"cwd": "/", "user": {"uid": 0, "gid": 0}, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]}});
        let guest = |spec: &serde_json::Value| {
            to_guest(serde_json::from_value(spec.clone()).unwrap(), "c1", &host).unwrap()
        };
        let bundle = guest(&spec);
        let limits = bundle.spec.process().as_ref().unwrap().rlimits().clone().unwrap();
        let seen: Vec<_> = limits.iter().map(|limit| (limit.typ(), limit.soft(), limit.hard())).collect();
        assert_eq!(seen, [(PosixRlimitType::RlimitNofile, 1, 2), (PosixRlimitType::RlimitCore, 8, 8)]);
        let score = |bundle: GuestBundle| bundle.spec.process().as_ref().unwrap().oom_score_adj();
        assert_eq!(score(bundle), Some(5));
        spec["process"]["oomScoreAdj"] = serde_json::json!(-7);
        assert_eq!(score(guest(&spec)), Some(-7));
    }

    #[test]
    fn no_process_gets_more_files_than_a_guest_has() {
        let limits = own();
        assert_eq!(limits.len(), INHERITED.len());
        let files = limits.iter().find(|limit| limit.typ() == PosixRlimitType::RlimitNofile).unwrap();
        assert!(files.soft() <= files.hard() && files.hard() <= NR_OPEN);
    }
}
