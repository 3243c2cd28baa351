//! What a process sees and may do is what runc shows it and lets it do: one script, run under both, line by line.

use crate::command::Output;
use crate::ctx::{Ctx, DEBIAN, Runtime};
use crate::scenario::{Outcome, Scenario};
use crate::{spec, undo};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

const WHY: &str = "it compares with runc";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("like-runc-as-root", as_root).long().image(DEBIAN).krun_only(WHY),
    Scenario::new("like-runc-as-a-user", as_a_user).long().image(DEBIAN).krun_only(WHY),
    Scenario::new("files-like-runcs", files).long().image(DEBIAN).krun_only(WHY).timeout(900),
];

const FACTS: &str = include_str!("facts.py");
const FILES: &str = concat!(
    include_str!("files/begin.py"),
    include_str!("files/names.py"),
    include_str!("files/contents.py"),
    include_str!("files/rights.py"),
    include_str!("files/sharing.py"),
    include_str!("files/end.py"),
);
/// Not where scenarios work, which is in memory: that directory of an old kernel's cannot be read while files in it go.
const ON_DISK: &str = "/var/lib/krun-scenario-files";
/// What libkrun's virtiofs does not have, or its vmm may not do; docs/limitations.md says so.
const NOT_SHARED: [&str; 3] = ["access_control_lists", "temporary_file", "device_nodes"];

fn as_root(ctx: &Ctx) -> Result<Outcome> {
    compare(ctx, |spec| {
        spec["process"]["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 1000, "hard": 2000 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 4096 },
        ]);
        spec["process"]["oomScoreAdj"] = json!(321);
        spec["process"]["user"]["umask"] = json!(0o27);
        spec["process"]["cwd"] = json!("/usr/share");
        spec["domainname"] = json!("example.org");
        spec["linux"]["sysctl"] = json!({ "kernel.shm_rmid_forced": "1", "kernel.msgmax": "12345" });
        spec["linux"]["resources"]["memory"] = json!({ "limit": 96 << 20, "swap": 96 << 20 });
        spec["linux"]["resources"]["pids"] = json!({ "limit": 55 });
        spec["linux"]["resources"]["cpu"] = json!({ "quota": 50000, "period": 100000, "shares": 512 });
    })
}

fn as_a_user(ctx: &Ctx) -> Result<Outcome> {
    compare(ctx, |spec| {
        spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [2000, 2001] });
        spec["process"]["noNewPrivileges"] = json!(true);
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            spec["process"]["capabilities"][set] = json!(["CAP_NET_BIND_SERVICE", "CAP_KILL"]);
        }
        spec["root"]["readonly"] = json!(true);
        spec["hostname"] = json!("krun-fidelity");
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }],
        });
    })
}

/// Runs the facts under both runtimes with containerd's default spec as `edit` leaves it.
fn compare(ctx: &Ctx, edit: impl Fn(&mut Value)) -> Result<Outcome> {
    let [runc, krun] = [Runtime::Runc, Runtime::Krun].map(|runtime| {
        let data = data(&ctx.work(&format!("data-{}", runtime.containerd_name())))?;
        let ctx = Ctx { runtime, ..*ctx };
        let seen = facts(&ctx, &data, &edit)?;
        Ok::<_, anyhow::Error>((seen.ok()?, on_the_host(&data)?))
    });
    let ((runc, runc_files), (krun, krun_files)) = (runc?, krun?);
    same(&runc.stdout_text(), &krun.stdout_text())?;
    ensure!(runc_files == krun_files, "on the host runc leaves {runc_files:?} and krun {krun_files:?}");
    Ok(Outcome::Passed)
}

/// What files do in the rootfs and in a volume: locks, mappings, links, renames, permissions, programs that use them.
fn files(ctx: &Ctx) -> Result<Outcome> {
    files_with(ctx, &[], |_| true)?;
    Ok(Outcome::Passed)
}

/// As [`files`], where krun has more flags, and is as runc but for what is not shared, on lines that may differ. Gives what krun said.
pub fn files_with(ctx: &Ctx, flags: &[&str], may_differ: impl Fn(&str) -> bool) -> Result<String> {
    let [runc, krun] = [Runtime::Runc, Runtime::Krun].map(|runtime| {
        let ctx = Ctx { runtime, ..*ctx };
        let data = format!("{ON_DISK}-{}", runtime.containerd_name());
        undo::remember(&["rm", "-rf", &data])?;
        fs::create_dir(&data).with_context(|| format!("make {data}"))?;
        let volume = format!("type=bind,src={data},dst=/data,options=rbind:rw");
        let id = ctx.id(if ctx.krun() { "krun" } else { "runc" });
        let script = ["python3", "-u", "-c", FILES, "/tmp/files", "/data"];
        let more = if ctx.krun() { flags } else { &[] };
        let flags = [&["--rm", "--mount", &volume], more].concat();
        let output = ctx.run(&flags, DEBIAN, &id, &script).timeout(600).run()?.ok()?;
        Ok::<_, anyhow::Error>(output.stdout_text())
    });
    let (runc, krun) = (runc?, krun?);
    let alike = |text: &str| {
        let differs = |line: &str| may_differ(line) && NOT_SHARED.iter().any(|name| line.contains(name));
        text.lines().filter(|line| !differs(line)).collect::<Vec<_>>().join("\n")
    };
    same(&alike(&runc), &alike(&krun))?;
    Ok(krun)
}

/// Whether what both said is the same, line by line.
fn same(runc: &str, krun: &str) -> Result<()> {
    let only = |one: &str, other: &str, who: &str| -> String {
        let missing = one.lines().filter(|line| !other.lines().any(|l| l == *line));
        missing.map(|line| format!("\n    only {who}: {line}")).collect()
    };
    let differences = only(runc, krun, "runc") + &only(krun, runc, "krun");
    ensure!(differences.is_empty(), "the runtimes differ:{differences}");
    Ok(())
}

fn facts(ctx: &Ctx, data: &Path, edit: &impl Fn(&mut Value)) -> Result<Output> {
    let id = ctx.id(if ctx.krun() { "krun" } else { "runc" });
    // The id is the same for both inside: some see it.
    let mut spec = spec::of_image(ctx, DEBIAN, &id, &["python3", "-c", FACTS, "an argument", "ünï\n'\"$"])?;
    spec["hostname"] = json!("facts");
    // What is inherited, or the host's business, where a spec does not say it.
    spec["process"]["oomScoreAdj"] = json!(0);
    let namespaces = spec["linux"]["namespaces"].as_array_mut().context("no namespaces")?;
    namespaces.retain(|namespace| namespace["type"] != "cgroup");
    namespaces.push(json!({ "type": "cgroup" }));
    let bind = |name: &str, to: &str, options: &[&str]| {
        json!({ "destination": to, "type": "bind",
        "source": data.join(name), "options": options })
    };
    let mounts = spec["mounts"].as_array_mut().context("no mounts")?;
    mounts.extend([
        bind("rw", "/data", &["rbind", "rw", "nosuid"]),
        bind("rw", "/data-ro", &["rbind", "ro", "noexec"]),
        bind("file", "/file", &["bind", "ro"]),
        json!({ "destination": "/scratch", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "size=1m", "mode=1777"] }),
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "ro"] }),
    ]);
    edit(&mut spec);
    spec::run(ctx, &["--rm"], &spec, &id)?.run()
}

/// A directory for everybody with one in it that belongs to a group, and a file.
fn data(dir: &Path) -> Result<PathBuf> {
    let group = dir.join("rw/group");
    fs::create_dir_all(&group).context("make the group's directory")?;
    chown(&group, Some(0), Some(2000)).context("give it to the group")?;
    fs::set_permissions(&group, Permissions::from_mode(0o2775)).context("let the group write")?;
    fs::set_permissions(dir.join("rw"), Permissions::from_mode(0o1777)).context("let everybody write")?;
    fs::write(dir.join("file"), "one file").context("write the file")?;
    Ok(dir.to_owned())
}

/// Name, owner, group and mode of what the container made.
fn on_the_host(data: &Path) -> Result<Vec<(String, u32, u32, u32)>> {
    ["rw/made", "rw/group/made"]
        .into_iter()
        .filter(|name| data.join(name).exists())
        .map(|name| {
            let made = fs::metadata(data.join(name)).with_context(|| format!("look at {name}"))?;
            Ok((name.to_owned(), made.uid(), made.gid(), made.mode()))
        })
        .collect()
}
