//! A container's init that compares what it finds with its config.json (`integration/runtimetest`).

use crate::ctx::{Ctx, RUNTIMETEST};
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;

pub const SCENARIOS: &[Scenario] = &[Scenario::new("runtimetest", runtimetest)];

/// As root with containerd's usual capabilities, then as a user with few, in a root that is read-only.
fn runtimetest(ctx: &Ctx) -> Result<Outcome> {
    for (who, change) in [("root", as_root as fn(&mut Value)), ("user", as_user)] {
        let id = ctx.id(who);
        let mut spec = spec::new(ctx, &id, &["/krun-runtimetest", "/config.json"])?;
        ask_for_much(&mut spec);
        change(&mut spec);
        let path = ctx.work(&format!("{id}-config.json"));
        for (source, destination) in
            [(RUNTIMETEST, "/krun-runtimetest"), (&path.display().to_string(), "/config.json")]
        {
            let mount = json!({"type": "bind", "source": source, "destination": destination,
                "options": ["bind", "ro", "nosuid"]});
            spec["mounts"].as_array_mut().context("mounts")?.push(mount);
        }
        fs::write(&path, serde_json::to_vec_pretty(&spec)?).context("write what it compares with")?;
        spec::run(ctx, &["--rm"], &spec, &id)?.run()?.ok().with_context(|| format!("as {who}"))?;
    }
    Ok(Outcome::Passed)
}

/// Something of every kind that shows from within.
fn ask_for_much(spec: &mut Value) {
    spec["hostname"] = json!("checked");
    spec["domainname"] = json!("example");
    spec["process"]["env"] = json!(["PATH=/bin", "EMPTY=", "LINES=one\ntwo", "EQUALS=a=b"]);
    spec["process"]["oomScoreAdj"] = json!(321);
    spec["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 1000, "hard": 2000},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 1 << 23},
    ]);
    spec["linux"]["sysctl"] =
        json!({"net.ipv4.ip_local_port_range": "20000 30000", "kernel.msgmax": "16384"});
    spec["linux"]["resources"]["memory"] = json!({"limit": 96 << 20, "reservation": 16 << 20});
    spec["linux"]["resources"]["pids"] = json!({"limit": 50});
    spec["linux"]["resources"]["cpu"] = json!({"quota": 50_000, "period": 100_000});
    spec["linux"]["devices"] = json!([
        {"path": "/dev/second-null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8},
    ]);
    spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
    ]});
}

fn as_root(spec: &mut Value) {
    spec["process"]["cwd"] = json!("/tmp");
    spec["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [0, 5], "umask": 0o027});
}

fn as_user(spec: &mut Value) {
    spec["root"]["readonly"] = json!(true);
    spec["process"]["noNewPrivileges"] = json!(true);
    spec["process"]["user"] = json!({"uid": 1000, "gid": 100, "additionalGids": [100, 44]});
    let few = json!(["CAP_NET_BIND_SERVICE"]);
    spec["process"]["capabilities"] =
        json!({"bounding": few, "effective": few, "inheritable": few, "permitted": few, "ambient": few});
}
