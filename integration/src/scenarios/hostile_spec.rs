//! What a pod's author, an image's or a bundle's writer can put into a spec: it is refused by name or does no more than its
//! container may, nothing hangs, and nothing of the host changes. Each scenario prints what it tried and what it got.

use super::bad_bundle::wrap;
use crate::command::{Cmd, Output};
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::{Outcome, Scenario};
use crate::{host, spec};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const WHY: &str = "the annotations are krun's";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("hostile-spec-pod", pod).krun_only(WHY),
    Scenario::new("hostile-spec-passwd", passwd).long(),
    Scenario::new("hostile-spec-names", names).long().krun_only("runc's shim takes any name"),
    Scenario::new("hostile-spec-rootfs", rootfs).long().krun_only("runc mounts wherever it is told"),
    Scenario::new("hostile-spec-console", console).long().krun_only("runc has no such console"),
    Scenario::new("hostile-spec-sources", sources).long().krun_only("runc binds magic links of its own"),
    Scenario::new("hostile-spec-destinations", destinations).long().krun_only("it is about the guest"),
    Scenario::new("hostile-spec-values", values).long().krun_only("runc says it in other words"),
];

/// An answer later than this means that something waited for what never comes.
const AT_ONCE: Duration = Duration::from_secs(45);

/// Prints a line of the table.
fn tried(what: &str, output: &Output, begun: Instant) {
    let printed = output.stderr_text() + &output.stdout_text();
    let last = printed.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing was printed");
    let last: String = last.chars().take(200).collect();
    println!("tried {what:<44} got {} in {:.1} s: {last}", output.status, begun.elapsed().as_secs_f64());
}

/// Runs what must be refused in these words.
fn refused(what: &str, command: Cmd, words: &[&str]) -> Result<()> {
    let begun = Instant::now();
    let output = command.run()?;
    tried(what, &output, begun);
    output.refused(words).with_context(|| what.to_owned())?;
    ensure!(begun.elapsed() < AT_ONCE, "{what}: refused after {:?}", begun.elapsed());
    Ok(())
}

/// Runs what must work.
fn works(what: &str, command: Cmd) -> Result<Output> {
    let begun = Instant::now();
    let output = command.run()?;
    tried(what, &output, begun);
    output.ok().with_context(|| what.to_owned())
}

/// A pod's author takes no more of the host than the pod has, and opens no port of it.
fn pod(ctx: &Ctx) -> Result<Outcome> {
    let whole = format!("io.containerd.krun.memory_mib={}", host::memory_kib()? >> 10);
    let ports = "io.containerd.krun.ports=2222:80";
    let cases: [(&str, &str, &[&str]); 6] = [
        ("ports of the host", ports, &["krun.ports", "2222:80", "pods may set: cpus, memory_mib, network"]),
        ("all memory of the host", &whole, &["krun.memory_mib", "in a pod: at most", "pod_max_memory_mib"]),
        ("all memory, in crun's words", "krun.ram_mib=1200", &["krun.ram_mib", "1200", "in a pod: at most"]),
        ("16 CPUs", "krun.cpus=16", &["krun.cpus", "16", "in a pod: at most", "pod_max_cpus"]),
        (
            "room for updates",
            "io.containerd.krun.max_memory_mib=256",
            &["krun.max_memory_mib", "not allowed"],
        ),
        ("an unknown annotation", "io.containerd.krun.vmm=/bin/sh", &["no annotation is named \"vmm\""]),
    ];
    for (i, (what, annotation, words)) in cases.iter().enumerate() {
        let id = ctx.id(&i.to_string());
        let sandbox = format!("io.kubernetes.cri.sandbox-id={id}");
        let flags = ["io.kubernetes.cri.container-type=sandbox", &sandbox, annotation]
            .map(|annotation| format!("--annotation={annotation}"));
        refused(what, ctx.sh(&flags.each_ref().map(String::as_str), &id, "true"), words)?;
    }
    // A member of a pod that has no sandbox yet.
    let id = ctx.id("member");
    let flags = ["io.kubernetes.cri.sandbox-id=somebody", ports].map(|a| format!("--annotation={a}"));
    refused(
        "ports, by a pod's member",
        ctx.sh(&flags.each_ref().map(String::as_str), &id, "true"),
        &["krun.ports"],
    )?;
    Ok(Outcome::Passed)
}

/// An image with a FIFO in the place of /etc/passwd. Neither the container's own process nor an exec waits for its writer.
fn passwd(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let spec = spec::new(ctx, &id, &["sh", "-c", "echo $HOME; sleep 1000"])?;
    let root = PathBuf::from(spec["root"]["path"].as_str().context("root.path")?);
    for name in ["passwd", "group"] {
        let fifo = root.join("etc").join(name).display().to_string();
        Cmd::new(&["mkfifo", &fifo]).run()?.ok()?;
    }
    let begun = Instant::now();
    let mut running = spec::run(ctx, &["--rm"], &spec, &id)?.spawn()?;
    running.wait_for_stdout("/\n")?;
    let took = begun.elapsed();
    println!("tried {:<44} got a start in {:.1} s", "a FIFO as /etc/passwd", took.as_secs_f64());
    ensure!(took < AT_ONCE, "the start took {took:?}");
    let exec = ctx.ctr(&["task", "exec", "--exec-id", "e", &id, "sh", "-c", "echo home is $HOME"]);
    let begun = Instant::now();
    let output = works("a FIFO as /etc/passwd, exec", exec)?;
    ensure!(begun.elapsed() < AT_ONCE, "the exec took {:?}", begun.elapsed());
    output.printed("home is /\n")?;
    ctx.kill(&id, "SIGKILL")?.ok()?;
    running.finish()?;
    Ok(Outcome::Passed)
}

/// Names that lead elsewhere, or spoil a log.
fn names(ctx: &Ctx) -> Result<Outcome> {
    let long = "x".repeat(256);
    for (i, name) in ["../../x", "..", "a/b", "", "a\nb", "a b", "\u{202e}pod", &long].into_iter().enumerate()
    {
        for annotation in ["io.kubernetes.cri.sandbox-id", "io.containerd.runc.v2.group"] {
            let flag = format!("--annotation={annotation}={name}");
            let what = format!("{:.20?} as {annotation}", name);
            refused(&what, ctx.sh(&[&flag], &ctx.id(&i.to_string()), "true"), &["annotation", annotation])?;
        }
    }
    // containerd refuses these itself.
    for id in ["../x", "a/b", "..", "a b", "é"] {
        refused(&format!("{id:?} as an id"), ctx.sh(&[], id, "true"), &["invalid"])?;
    }
    let id = ctx.id("cgroup");
    let mut spec = spec::new(ctx, &id, &["true"])?;
    spec["linux"]["cgroupsPath"] = json!("/default/../../../etc");
    refused("cgroupsPath with ..", spec::run(ctx, &["--rm"], &spec, &id)?, &["linux.cgroupsPath", ".."])?;
    let fifo = ctx.work("netns").display().to_string();
    Cmd::new(&["mkfifo", &fifo]).run()?.ok()?;
    let namespace = format!("network:{fifo}");
    let command = ctx.sh(&["--with-ns", &namespace], &ctx.id("netns"), "true");
    refused("a FIFO as network namespace", command, &[&fifo, "no network namespace"])?;
    Ok(Outcome::Passed)
}

/// A bundle whose writer chooses where the container's snapshot is mounted.
fn rootfs(ctx: &Ctx) -> Result<Outcome> {
    let victim = ctx.work("victim");
    fs::create_dir(&victim).context("make a directory")?;
    fs::write(victim.join("mark"), "").context("mark it")?;
    let shown = victim.display();
    let set =
        |path: &str| format!(r#"sed -i 's|"root":{{"path":"rootfs"|"root":{{"path":"{path}"|' config.json"#);
    let cases = [
        ("an absolute root.path with a snapshot", set(&shown.to_string())),
        ("root.path with ..", set("../../../../../../../..$(pwd)/../victim")),
        ("the bundle itself as root.path", set(".")),
        ("a link as rootfs", format!("rmdir rootfs && ln -s {shown} rootfs")),
    ];
    for (i, (what, script)) in cases.iter().enumerate() {
        let script = format!("{script}; exec {{shim}} \"$@\"");
        let wrapper = wrap(ctx, &format!("root{i}"), &script)?;
        let command = ctx.run_as(&wrapper, &["--rm"], &[BUSYBOX, &ctx.id(&i.to_string()), "true"]);
        refused(what, command, &["root.path", "a snapshot is mounted there"])?;
        ensure!(victim.join("mark").exists(), "{what}: {shown} is not what it was");
    }
    Ok(Outcome::Passed)
}

/// Somebody can write the directory of the guest kernels' console output.
fn console(ctx: &Ctx) -> Result<Outcome> {
    let (dir, victim) = (ctx.work("consoles"), ctx.work("victim"));
    fs::create_dir(&dir).context("make a directory")?;
    fs::write(&victim, "untouched").context("write a file")?;
    let config = ctx.work("config.toml");
    fs::write(&config, format!("debug_console = {:?}\n", dir.display().to_string())).context("configure")?;
    let config = config.display().to_string();
    let run = |id: &str| ctx.sh(&["--runtime-config-path", &config], id, "true");
    let log = |id: &str| dir.join(format!("{id}.log"));
    let (link, fifo, file) = (ctx.id("link"), ctx.id("fifo"), ctx.id("file"));
    symlink(&victim, log(&link)).context("make a link")?;
    Cmd::new(&["mkfifo", &log(&fifo).display().to_string()]).run()?.ok()?;
    refused("a link as debug console", run(&link), &["debug console", &format!("{link}.log")])?;
    refused("a FIFO as debug console", run(&fifo), &["debug console", &format!("{fifo}.log")])?;
    ensure!(
        fs::read_to_string(&victim).context("read it")? == "untouched",
        "the console went through the link"
    );
    works("a file as debug console", run(&file))?;
    let output = fs::metadata(log(&file)).context("the console's file")?.len();
    ensure!(output > 0, "the console is empty");
    Ok(Outcome::Passed)
}

/// What a mount's source may lead to.
fn sources(ctx: &Ctx) -> Result<Outcome> {
    for (i, source) in
        ["/proc/self/root", "/proc/1/root/etc", "/proc/self/cwd", "/proc/self/fd/0"].iter().enumerate()
    {
        let mount = format!("type=bind,src={source},dst=/m,options=rbind:rw");
        let command = ctx.sh(&["--mount", &mount], &ctx.id(&i.to_string()), "ls /m");
        refused(&format!("{source} as a mount's source"), command, &["mount source", source])?;
    }
    let fifo = ctx.work("source").display().to_string();
    Cmd::new(&["mkfifo", &fifo]).run()?.ok()?;
    let mount = format!("type=bind,src={fifo},dst=/m,options=rbind:rw");
    let command = ctx.sh(&["--mount", &mount], &ctx.id("fifo"), "test -p /m && echo a FIFO");
    works("a FIFO as a mount's source", command)?.printed("a FIFO\n")?;
    Ok(Outcome::Passed)
}

/// Where in its root a container's mounts can be led: never out of the guest, whatever happens there.
fn destinations(ctx: &Ctx) -> Result<Outcome> {
    let (source, outside) = (ctx.work("source"), ctx.work("outside"));
    for dir in [&source, &outside] {
        fs::create_dir(dir).context("make a directory")?;
    }
    fs::write(source.join("file"), "").context("write a file")?;
    let up = format!("../../../../../../..{}", outside.display());
    let cases = [
        ("a destination with ..", format!("/../../../../../..{}", outside.display())),
        ("a relative destination", "relative".to_owned()),
        ("a destination through a link up", "/up/x".to_owned()),
        ("a destination through an absolute link", "/absolute/x".to_owned()),
        ("a destination through a link to /proc", "/data/sys/kernel".to_owned()),
        ("a destination that is a link to /proc/self/root", "/self/x".to_owned()),
    ];
    for (i, (what, destination)) in cases.into_iter().enumerate() {
        let id = ctx.id(&i.to_string());
        let mut spec = spec::new(ctx, &id, &["sh", "-c", "echo ran"])?;
        let root = PathBuf::from(spec["root"]["path"].as_str().context("root.path")?);
        for (name, target) in [
            ("up", up.as_str()),
            ("absolute", &outside.display().to_string()),
            ("data", "/proc"),
            ("self", "/proc/self/root"),
        ] {
            symlink(target, root.join(name)).context("make a link")?;
        }
        let mounts = spec["mounts"].as_array_mut().context("mounts")?;
        mounts.push(
            json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rw"]}),
        );
        let begun = Instant::now();
        let output = spec::run(ctx, &["--rm"], &spec, &id)?.run()?;
        tried(what, &output, begun);
        ensure!(begun.elapsed() < AT_ONCE, "{what}: an answer after {:?}", begun.elapsed());
        ensure!(is_empty(&outside)?, "{what}: it is in the host's {}", outside.display());
        ensure!(output.status == 0 || !output.stderr_text().is_empty(), "{what}: nobody says why: {output}");
    }
    Ok(Outcome::Passed)
}

fn is_empty(dir: &Path) -> Result<bool> {
    Ok(fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?.next().is_none())
}

/// Values that are absurd, or that a guest cannot have.
fn values(ctx: &Ctx) -> Result<Outcome> {
    let huge = vec![format!("X={}", "x".repeat(60_000)); 60];
    let hook = json!({"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "touch /run/krun-scenarios/hooked"]}]});
    let device = json!([{"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232, "fileMode": 0o666}]);
    let rule = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 232, "access": "rwm"}]);
    let rlimit = |kind: &str, soft: u64, hard: u64| json!([{"type": kind, "soft": soft, "hard": hard}]);
    type Change<'a> = &'a [(&'a str, Value)];
    let cases: [(&str, Change, &[&str]); 9] = [
        (
            "a config.json of 3.6 MB",
            &[("/process/env", json!(huge))],
            &["config.json", "3145728 are allowed"],
        ),
        ("a hook createContainer", &[("/hooks", hook)], &["hooks.createContainer", "not offered"]),
        (
            "/dev/kvm, by name and number",
            &[("/linux/devices", device), ("/linux/resources/devices", rule)],
            &["linux.devices", "/dev/kvm"],
        ),
        (
            "a sysctl with ../",
            &[("/linux/sysctl", json!({"net.ipv4/../../kernel/core_pattern": "|/x"}))],
            &["sysctl"],
        ),
        (
            "a sysctl of /proc",
            &[("/linux/sysctl", json!({"../self/mem": "x"}))],
            &["linux.sysctl", "../self/mem"],
        ),
        (
            "an rlimit with soft above hard",
            &[("/process/rlimits", rlimit("RLIMIT_NOFILE", 9, 8))],
            &["rlimit"],
        ),
        (
            "an rlimit that is none",
            &[("/process/rlimits", rlimit("RLIMIT_NONSENSE", 1, 1))],
            &["RLIMIT_NONSENSE"],
        ),
        ("2^63 open files", &[("/process/rlimits", rlimit("RLIMIT_NOFILE", 1 << 63, 1 << 63))], &["rlimit"]),
        ("a user namespace", &[("/linux/namespaces/-", json!({"type": "user"}))], &["user namespace"]),
    ];
    for (i, (what, changes, words)) in cases.iter().enumerate() {
        let id = ctx.id(&i.to_string());
        let mut spec = spec::new(ctx, &id, &["true"])?;
        for (path, value) in *changes {
            put(&mut spec, path, value).with_context(|| what.to_string())?;
        }
        refused(what, spec::run(ctx, &["--rm"], &spec, &id)?, words)?;
    }
    ensure!(!ctx.work("hooked").exists(), "the hook ran");
    Ok(Outcome::Passed)
}

/// Puts a value at a path of a spec; `-` is a list's end.
fn put(spec: &mut Value, path: &str, value: &Value) -> Result<()> {
    let (parent, name) = path.rsplit_once('/').context("a path")?;
    match spec.pointer_mut(parent).with_context(|| format!("no {parent}"))? {
        Value::Array(list) if name == "-" => list.push(value.clone()),
        object => object[name] = value.clone(),
    }
    Ok(())
}
