//! A spec that protects must be obeyed or refused; one that names what a guest cannot have runs without it.

use crate::containerd_log;
use crate::ctx::Ctx;
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use anyhow::{Result, ensure};
use serde_json::json;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("seccomp-enforced", seccomp_enforced),
    Scenario::new("seccomp-refused", seccomp_refused).long(),
    Scenario::new("host-labels-dropped", host_labels_dropped)
        .long()
        .long()
        .krun_only("runc refuses them where the host has none"),
];

/// A filter that denies one call denies that call and no other, and capabilities that are not given are not there.
fn seccomp_enforced(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let script = "mkdir /tmp/denied 2>&1; echo >/tmp/allowed && echo wrote; grep -E '^(Seccomp|CapBnd|NoNewPrivs):' /proc/self/status";
    let mut spec = spec::new(ctx, &id, &["sh", "-c", script])?;
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }],
    });
    for set in ["bounding", "effective", "permitted"] {
        spec["process"]["capabilities"][set] = json!(["CAP_KILL"]);
    }
    let output = spec::run(ctx, &["--rm"], &spec, &id)?.run()?.ok()?.has_line("wrote")?;
    let output = output.has_line("Seccomp:\t2")?.has_line("NoNewPrivs:\t1")?;
    // CAP_KILL is number 5 (linux/capability.h).
    let output = output.has_line("CapBnd:\t0000000000000020")?;
    ensure!(output.stdout_text().contains("Operation not permitted"), "mkdir was not denied: {output}");
    Ok(Outcome::Passed)
}

/// A filter with an action that nobody knows, and one that hands calls to an agent of the host, which nothing in a
/// guest can do: no container without its filter.
fn seccomp_refused(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let mut spec = spec::new(ctx, &id, &["true"])?;
    for (action, word) in [("SCMP_ACT_NONSENSE", "SCMP_ACT_NONSENSE"), ("SCMP_ACT_NOTIFY", "seccomp")] {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/run/no-agent.sock",
            "syscalls": [{ "names": ["mkdir"], "action": action }],
        });
        spec::run(ctx, &["--rm"], &spec, &id)?.run()?.refused(&[word])?;
    }
    Ok(Outcome::Passed)
}

/// SELinux, resctrl and limits on swap, which the kubelet writes, are the host's: dropped, with a line in the log for
/// each.
fn host_labels_dropped(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let mark = containerd_log::mark();
    let mut spec = spec::new(ctx, &id, &["echo", "fine"])?;
    spec["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0");
    spec["linux"]["intelRdt"] = json!({ "closID": "guaranteed" });
    spec["linux"]["resources"]["unified"] = json!({ "memory.swap.max": "0", "memory.oom.group": "1" });
    spec::run(ctx, &["--rm"], &spec, &id)?.run()?.ok()?.printed("fine\n")?;
    for word in ["selinuxLabel", "intelRdt", "swap"] {
        ensure!(mark.line_with(&[word])?.is_some(), "the log has no line about {word}");
    }
    Ok(Outcome::Passed)
}
