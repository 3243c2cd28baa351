//! krunctl, without containerd: `run` and `check`.

use crate::command::{Cmd, Output, Running};
use crate::ctx::Ctx;
use crate::host;
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::time::Duration;

pub const WHY: &str = "it is krun's own tool";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("krunctl-run", run).krun_only(WHY),
    Scenario::new("krunctl-run-flags", flags).long().krun_only(WHY),
    Scenario::new("krunctl-run-ends", ends).long().krun_only(WHY),
    Scenario::new("krunctl-check-and-refusals", check_and_refusals).krun_only(WHY),
];

/// A directory boots, with stdin, stdout and status passed through.
fn run(ctx: &Ctx) -> Result<Outcome> {
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    let command = [
        "krunctl",
        "run",
        "-i",
        "--root",
        &root,
        "--memory",
        "256",
        "--",
        "/bin/sh",
        "-c",
        "uname -r; cat; exit 7",
    ];
    let expected = format!("{}\nhello\n", host::libkrunfw_kernel()?);
    Cmd::new(&command).stdin("hello\n").run()?.expect_status(7)?.printed(&expected)?;
    Ok(Outcome::Passed)
}

/// The flags mean what they mean to nerdctl.
fn flags(ctx: &Ctx) -> Result<Outcome> {
    let root = spec::busybox_root(&ctx.work("root"))?;
    fs::create_dir_all(root.join("etc")).context("make /etc")?;
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:7:8::/srv:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "adm:x:4:app\n")?;
    let (data, file) = (ctx.work("data"), ctx.work("file"));
    fs::create_dir(&data).context("make a volume")?;
    fs::write(data.join("in"), "from the host\n")?;
    fs::write(&file, "one file\n")?;
    let variables = ctx.work("env");
    fs::write(&variables, "# comment\nFROM_FILE=a b\nPATH\n")?;
    let (data, file) = (data.display().to_string(), file.display().to_string());
    let run = |flags: &[&str], script: &str| {
        let root = root.display().to_string();
        let words = [
            &["krunctl", "run", "--root", &root, "--memory", "256"],
            flags,
            &["--", "/bin/sh", "-c", script],
        ];
        Cmd::new(&words.concat()).run()
    };
    // Without -i there is no input.
    run(
        &[
            "-e", "A=1", "--env-file", &variables.display().to_string(), "-w", "/etc", "-u", "app", "--hostname", "web",
            "--ulimit", "nofile=77:88", "--cap-drop", "ALL", "--cap-add", "NET_RAW", "--rm",
        ],
        "cat; echo $A $FROM_FILE $HOME; pwd; id -u; id -g; id -G; hostname; ulimit -n; grep CapBnd /proc/self/status",
    )?
    .ok()?
    .printed("1 a b /srv\n/etc\n7\n8\n8 4\nweb\n77\nCapBnd:\t0000000000002000\n")?;

    let (volume, read_only, single) =
        (format!("{data}:/data"), format!("{data}:/ro:ro"), format!("{file}:/etc/single:ro"));
    run(
        &["-v", &volume, "-v", &read_only, "-v", &single, "--tmpfs", "/scratch:size=1m", "--add-host", "db:10.1.2.3"],
        "cat /data/in /etc/single; echo out >/data/out; echo x 2>/dev/null >/ro/x || echo refused
         grep -c '^tmpfs /scratch tmpfs.*noexec.*size=1024k' /proc/mounts; grep db /etc/hosts; cat /proc/uptime >/new",
    )?
    .ok()?
    .printed("from the host\none file\nrefused\n1\n10.1.2.3\tdb\n")?;
    ensure!(fs::read_to_string(format!("{data}/out"))? == "out\n", "what it wrote to a volume");
    ensure!(root.join("new").exists(), "what it wrote to its root");
    run(
        &["--read-only", "--network", "none"],
        "echo x 2>/dev/null >/x || echo refused; ls -d /sys/class/net/*/device 2>/dev/null; true",
    )?
    .ok()?
    .printed("refused\n")?;
    ensure!(!root.join("x").exists(), "it wrote to a root that is read-only");
    let console = run(&["--debug-console"], "true")?.ok()?;
    let kernel = format!("Linux version {}", host::libkrunfw_kernel()?);
    ensure!(console.stderr_text().contains(&kernel), "the console does not say {kernel:?}: {console}");
    named_once(&root.display().to_string())?;
    Ok(Outcome::Passed)
}

/// Two runs do not have one name at the same time.
fn named_once(root: &str) -> Result<()> {
    let words = ["krunctl", "run", "--root", root, "--memory", "256", "--name", "once", "--"];
    let once = |script: &str| Cmd::new(&[&words[..], &["/bin/sh", "-c", script]].concat());
    let mut first = once("trap 'exit 3' TERM; echo up; sleep 1000 & wait").spawn()?;
    first.wait_for_stdout("up\n")?;
    let pid = format!("as process {}:", first.pid());
    once("true").run()?.expect_status(125)?.refused(&["--name once", "is running", &pid, "another name"])?;
    first.signal(Signal::SIGTERM)?;
    first.finish()?.expect_status(3)?;
    once("true").run()?.ok().map(drop)
}

/// It ends with the command's status, at a time, at a signal, or by force; nothing stays.
fn ends(ctx: &Ctx) -> Result<Outcome> {
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    let run = |flags: &[&str], command: &[&str]| {
        Cmd::new(&[&["krunctl", "run", "--root", &root, "--memory", "256"], flags, &["--"], command].concat())
    };
    run(&[], &["/no/such"]).run()?.expect_status(127)?.refused(&["/no/such"])?;
    run(&[], &["/etc"]).run()?.expect_status(126)?;
    run(&["--timeout", "8s"], &["/bin/sleep", "1000"]).run()?.expect_status(124)?;
    let script = "trap 'echo bye; exit 3' TERM; echo up; sleep 1000 & wait";
    let mut running = run(&[], &["/bin/sh", "-c", script]).spawn()?;
    running.wait_for_stdout("up\n")?;
    running.signal(Signal::SIGTERM)?;
    running.finish()?.expect_status(3)?.printed("up\nbye\n")?;

    // One that heeds none ends at the third, and at the first while its VM boots.
    let deaf = "trap 'echo no' INT; echo up; while :; do sleep 1; done";
    let mut running = run(&[], &["/bin/sh", "-c", deaf]).spawn()?;
    for heard in ["up\n", "up\nno\n", "up\nno\nno\n"] {
        running.wait_for_stdout(heard)?;
        running.signal(Signal::SIGINT)?;
    }
    running.finish()?.expect_status(128 + 2)?;
    early(run(&["--deny-all"], &["/bin/true"]).spawn()?)?.expect_status(128 + 15)?;

    // The next run undoes what a killed one left.
    let mut running = run(&[], &["/bin/sh", "-c", "echo up; sleep 1000"]).spawn()?;
    running.wait_for_stdout("up\n")?;
    running.signal(Signal::SIGKILL)?;
    running.finish()?.expect_status(128 + 9)?;
    run(&[], &["/bin/true"]).run()?.ok()?;
    Ok(Outcome::Passed)
}

/// Ends it as soon as its network is there.
fn early(running: Running) -> Result<Output> {
    let rules = || -> Result<bool> {
        Ok(Cmd::new(&["nft", "list", "tables"]).run()?.ok()?.stdout_text().contains("krunctl"))
    };
    until_true("its rules", Duration::from_secs(60), rules)?;
    running.signal(Signal::SIGTERM)?;
    let ended = running.finish()?;
    ensure!(!rules()? && !Path::new("/run/krun/ctl").exists(), "it left its rules or its directory: {ended}");
    Ok(ended)
}

/// `check` is content with the box; `run` refuses sizes and roots that cannot be.
fn check_and_refusals(ctx: &Ctx) -> Result<Outcome> {
    let checked = Cmd::new(&["krunctl", "check"]).run()?.ok()?;
    ensure!(checked.stdout_text().contains("nftables v"), "{checked}");
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    let file = format!("{root}/bin/busybox");
    let cases: [(&[&str], &[&str]); 7] = [
        (&["--root", &root, "--memory", "64"], &["64", "128"]),
        (&["--root", &root, "--memory", "99999999"], &["99999999", "128"]),
        (&["--root", &root, "--cpus", "0"], &["0", "16"]),
        (&["--root", &root, "--cpus", "17"], &["17", "16"]),
        (&[], &["--root <DIR>", "--image <REFERENCE|ARCHIVE|LAYOUT>"]),
        (&["--root", &file], &["not a directory"]),
        (&["--root", "/no/such/root"], &["/no/such/root"]),
    ];
    // Nobody but root, and where there is no KVM: each command that makes a VM says what is missing.
    let hidden = "mount --bind /dev/null /dev/kvm && exec \"$@\"";
    for command in [&["run", "--root", &root, "--", "/bin/true"][..], &["sh"], &["start", "nobody"]] {
        let words = [&["krunctl"], command].concat();
        let as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
        Cmd::new(&[&as_nobody[..], &words].concat())
            .run()?
            .expect_status(125)?
            .refused(&["not root", "sudo"])?;
        let without_kvm = ["unshare", "--mount", "sh", "-c", hidden, "sh"];
        Cmd::new(&[&without_kvm[..], &words].concat()).run()?.expect_status(125)?.refused(&["/dev/kvm"])?;
    }
    // Where what it says cannot be written, that is an error as any other.
    for command in ["completions bash", "ls"] {
        let command = format!("krunctl {command} >/dev/full");
        Cmd::new(&["sh", "-c", &command])
            .run()?
            .expect_status(125)?
            .refused(&["standard output", "No space left"])?;
    }
    for (flags, words) in cases {
        Cmd::new(&[&["krunctl", "run"], flags, &["--", "/bin/true"]].concat())
            .run()?
            .expect_status(125)?
            .refused(words)?;
    }
    Ok(Outcome::Passed)
}
