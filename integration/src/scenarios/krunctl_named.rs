//! krunctl's VMs with names: they run at the same time, outlive what started them, and are shown as what they are.

use crate::command::{Cmd, Output};
use crate::ctx::Ctx;
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::krunctl::WHY;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("krunctl-named", life).krun_only(WHY),
    Scenario::new("krunctl-named-exec", execs).long().krun_only(WHY),
    Scenario::new("krunctl-named-faults", faults).long().krun_only(WHY),
];

/// Where they are. Source: docs/krunctl.md.
const VMS: &str = "/var/lib/krun/vms";

/// It says something, and ends in a second when it is told to.
const SERVER: &str = "trap 'echo bye; exit 4' TERM; echo up $A; sleep 1000 & wait";

fn krunctl(words: &[&str]) -> Result<Output> {
    Cmd::new(&[&["krunctl"], words].concat()).run()
}

/// Makes a VM whose command is a shell's script.
fn create(ctx: &Ctx, name: &str, flags: &[&str], script: &str) -> Result<()> {
    let root = ctx.work("root");
    let root = if root.exists() { root } else { spec::busybox_root(&root)? };
    let root = root.display().to_string();
    let first = ["create", "--name", name, "--root", &root, "--memory", "256"];
    krunctl(&[&first, flags, &["--", "/bin/sh", "-c", script]].concat())?
        .ok()?
        .printed(&format!("{name}\n"))?;
    // It may be gone by then.
    crate::undo::remember(&["sh", "-c", &format!("krunctl delete -f {name} || true")])
}

/// What `ls` says of a VM.
fn shown(name: &str) -> Result<Value> {
    let all: Value = serde_json::from_str(&krunctl(&["ls", "--format", "json"])?.ok()?.stdout_text())?;
    let mut all = all.as_array().into_iter().flatten();
    Ok(all.find(|vm| vm["name"] == name).cloned().unwrap_or_default())
}

fn is_as(name: &str, state: &str, status: Value) -> Result<()> {
    let shown = shown(name)?;
    ensure!(shown["state"] == state && shown["status"] == status, "{name} is no {state} {status}: {shown}");
    Ok(())
}

/// From its making to its end, and once more; two at the same time.
fn life(ctx: &Ctx) -> Result<Outcome> {
    create(ctx, "web", &["-e", "A=1"], SERVER)?;
    is_as("web", "created", Value::Null)?;
    krunctl(&["exec", "web", "--", "true"])?
        .expect_status(125)?
        .refused(&["web does not run", "start web"])?;
    krunctl(&["start", "web"])?.ok()?;
    is_as("web", "running", Value::Null)?;
    create(ctx, "db", &[], SERVER)?;
    krunctl(&["start", "db"])?.ok()?;
    krunctl(&["exec", "web", "--", "/bin/sh", "-c", "echo $A; exit 9"])?.expect_status(9)?.printed("1\n")?;
    krunctl(&["exec", "db", "--", "/bin/sh", "-c", "echo db $A"])?.ok()?.printed("db\n")?;

    let listed = krunctl(&["ls", "-v"])?.ok()?.stdout_text();
    let line = listed.lines().find(|line| line.starts_with("web")).unwrap_or_default();
    ensure!(line.contains("running") && line.contains(&ctx.work("root").display().to_string()), "{listed}");
    krunctl(&["start", "web"])?.expect_status(125)?.refused(&["web runs already"])?;
    krunctl(&["delete", "web"])?.expect_status(125)?.refused(&["web runs", "-f"])?;
    let root = ctx.work("root").display().to_string();
    krunctl(&["create", "--name", "web", "--root", &root, "--", "true"])?
        .expect_status(125)?
        .refused(&["taken", "krunctl delete web"])?;

    let mut following = Cmd::new(&["krunctl", "logs", "-f", "web"]).spawn()?;
    following.wait_for_stdout("up 1\n")?;
    krunctl(&["stop", "web"])?.ok()?;
    following.finish()?.ok()?.printed("up 1\nbye\n")?;
    is_as("web", "exited", 4.into())?;
    krunctl(&["status", "web"])?.expect_status(3)?;
    krunctl(&["stop", "web"])?.expect_status(125)?.refused(&["web does not run"])?;

    krunctl(&["start", "web"])?.ok()?;
    krunctl(&["status", "web"])?.ok()?;
    krunctl(&["delete", "-f", "web"])?.ok()?;
    krunctl(&["delete", "-f", "db"])?.ok()?;
    krunctl(&["status", "web"])?.expect_status(125)?.refused(&["no VM is named web"])?;
    ensure!(fs::read_dir(VMS).context(VMS)?.count() == 0, "{VMS} is not empty");
    Ok(Outcome::Passed)
}

/// Execs have flags of their own, run at the same time, and end at a time or a signal.
fn execs(ctx: &Ctx) -> Result<Outcome> {
    let volume = ctx.work("volume");
    fs::create_dir(&volume).context("make a volume")?;
    let volume = format!("{}:/data", volume.display());
    create(ctx, "web", &["-e", "A=1", "-w", "/tmp", "-v", &volume, "--tmpfs", "/scratch"], SERVER)?;
    fs::write(ctx.work("root").join("etc/passwd"), "app:x:7:8::/srv:/bin/sh\n")?;
    krunctl(&["start", "web"])?.ok()?;
    let flags = ["exec", "-e", "B=2", "-w", "/etc", "-u", "app", "web", "--", "/bin/sh", "-c"];
    krunctl(&[&flags[..], &["echo $A $B $HOME; pwd; id -u; id -g; cat"]].concat())?
        .ok()?
        .printed("1 2 /srv\n/etc\n7\n8\n")?;
    let input = Cmd::new(&["krunctl", "exec", "-i", "web", "--", "cat"]).stdin(vec![b'x'; 300_000]);
    ensure!(input.run()?.ok()?.stdout.len() == 300_000, "it did not get its input");
    krunctl(&["exec", "web", "--", "/no/such"])?.expect_status(127)?.refused(&["/no/such"])?;
    krunctl(&["exec", "--timeout", "2s", "web", "--", "sleep", "1000"])?.expect_status(124)?;

    let one = |number: usize| {
        let script = format!("echo {number}; read x; exit {number}");
        Cmd::new(&["krunctl", "exec", "-i", "web", "--", "/bin/sh", "-c", &script]).hold_stdin().spawn()
    };
    let mut running = (1..=6).map(one).collect::<Result<Vec<_>>>()?;
    for (index, exec) in running.iter_mut().enumerate() {
        exec.wait_for_stdout(&format!("{}\n", index + 1))?;
    }
    for (index, mut exec) in running.into_iter().enumerate() {
        exec.say("go\n")?;
        exec.finish()?.expect_status(index as i32 + 1)?;
    }
    let mut signalled = Cmd::new(&["krunctl", "exec", "web", "--", "/bin/sh", "-c", SERVER]).spawn()?;
    signalled.wait_for_stdout("up 1\n")?;
    signalled.signal(Signal::SIGTERM)?;
    signalled.finish()?.expect_status(4)?.printed("up 1\nbye\n")?;
    copies(ctx)?;
    krunctl(&["delete", "-f", "web"])?.ok()?;
    Ok(Outcome::Passed)
}

/// Files go in and out; a link in the VM leads nowhere on the host.
fn copies(ctx: &Ctx) -> Result<()> {
    let (file, out) = (ctx.work("file"), ctx.work("out"));
    fs::write(&file, "from the host\n")?;
    fs::create_dir(&out)?;
    let (file, out) = (file.display().to_string(), out.display().to_string());
    let inside = |script: &str| krunctl(&["exec", "web", "--", "/bin/sh", "-c", script]);
    krunctl(&["cp", &file, "web:/tmp"])?.ok()?;
    inside(
        "cat /tmp/file; mkdir -p /tree/sub; echo in >/tree/sub/a; chmod 4755 /tree/sub/a; ln -s / /tree/up",
    )?
    .ok()?
    .printed("from the host\n")?;
    krunctl(&["cp", "web:/tree", &out])?.ok()?;
    ensure!(fs::read_to_string(format!("{out}/tree/sub/a"))? == "in\n", "the copy is another");
    let mode = fs::metadata(format!("{out}/tree/sub/a"))?.permissions().mode() & 0o7777;
    ensure!(mode == 0o755, "a program with another's rights came out of the VM: {mode:o}");
    krunctl(&["cp", &file, "web:/tree/up/krunctl-cp"])?.ok()?;
    inside("cat /krunctl-cp; mkfifo /tree/fifo")?.ok()?.printed("from the host\n")?;
    ensure!(!Path::new("/krunctl-cp").exists(), "a link in the VM led to the host's /");
    krunctl(&["cp", "web:/tree/fifo", &out])?.expect_status(125)?.refused(&["fifo", "neither"])?;
    krunctl(&["cp", "web:/no/such", &out])?.expect_status(125)?.refused(&["/no"])?;
    krunctl(&["cp", &file, &out])?.expect_status(125)?.refused(&["NAME:PATH"])?;
    mounts(ctx, &file)
}

/// What is mounted in the VM is not what a copy would see: it says so, and what to do, which works.
fn mounts(ctx: &Ctx, file: &str) -> Result<()> {
    let volume = ctx.work("volume").display().to_string();
    krunctl(&["exec", "web", "--", "/bin/sh", "-c", "ln -s /run /link"])?.ok()?;
    for (path, words) in [
        ("/data", ["/data is mounted", &volume]),
        ("/data/new/x", ["/data is mounted", &format!("{volume}/new/x")]),
        ("/scratch", ["/scratch is mounted", "tar -x -C /scratch"]),
        ("/dev/shm/x", ["/dev/shm is mounted", "tar -x -C /dev/shm"]),
        ("/link/x", ["/run is mounted", "web:/run/x"]),
    ] {
        let there = format!("web:{path}");
        krunctl(&["cp", file, &there])?.expect_status(125)?.refused(&words)?;
        krunctl(&["cp", &there, "/tmp"])?.expect_status(125)?.refused(&words[..1])?;
    }
    let pipes = format!(
        "set -e; tar -c -C {0} file | krunctl exec -i web -- /bin/busybox tar -x -C /scratch
         krunctl exec web -- /bin/busybox tar -c /scratch/file | tar -x -O 2>/dev/null",
        Path::new(file).parent().context("its directory")?.display()
    );
    Cmd::new(&["sh", "-c", &pipes]).run()?.ok()?.printed("from the host\n").map(drop)
}

/// A killed keeper, broken files and a killed client are survived.
fn faults(ctx: &Ctx) -> Result<Outcome> {
    create(ctx, "web", &[], SERVER)?;
    for _ in 0..2 {
        krunctl(&["start", "web"])?.ok()?;
        let keeper = shown("web")?["pid"].as_i64().context("the keeper's pid")?;
        let mut client =
            Cmd::new(&["krunctl", "exec", "web", "--", "/bin/sh", "-c", "echo up; sleep 1000"]).spawn()?;
        client.wait_for_stdout("up\n")?;
        kill(Pid::from_raw(keeper as i32), Signal::SIGKILL)?;
        until_true("the keeper's end", Duration::from_secs(20), || Ok(shown("web")?["state"] == "lost"))?;
        client.finish()?.expect_status(125)?.refused(&["keeper"])?;
    }
    // What a killed client left goes with the VM.
    krunctl(&["start", "web"])?.ok()?;
    let mut client =
        Cmd::new(&["krunctl", "exec", "web", "--", "/bin/sh", "-c", "echo up; sleep 1000"]).spawn()?;
    client.wait_for_stdout("up\n")?;
    client.signal(Signal::SIGKILL)?;
    client.finish()?;
    krunctl(&["stop", "--timeout", "1s", "web"])?.ok()?;
    is_as("web", "exited", 4.into())?;

    // A root that is not there any more.
    let moved = ctx.work("moved");
    fs::rename(ctx.work("root"), &moved)?;
    krunctl(&["start", "web"])?.expect_status(125)?.refused(&["root: No such file"])?;
    fs::rename(&moved, ctx.work("root"))?;

    // A state that cannot be read.
    fs::write(Path::new(VMS).join("web/vm.json"), "{\"version\": 1")?;
    ensure!(shown("web")?["state"] == "broken", "{}", shown("web")?);
    krunctl(&["start", "web"])?.expect_status(125)?.refused(&["vm.json"])?;
    krunctl(&["delete", "web"])?.ok()?;

    for (words, expected) in [
        (&["create", "--name", "../x", "--root", "/", "--", "true"][..], &["../x", "1 to 48"][..]),
        (&["create", "--name", "x", "--root", "/no/such", "--", "true"], &["/no/such"]),
        (&["start", "nobody"], &["no VM is named nobody"]),
        (&["logs", "nobody"], &["no VM is named nobody"]),
        (&["exec", "--timeout", "soon", "x", "--", "true"], &["--timeout", "soon", "30s"]),
    ] {
        krunctl(words)?.expect_status(125)?.refused(expected)?;
    }
    ensure!(fs::read_dir(VMS).context(VMS)?.count() == 0, "{VMS} is not empty");
    Ok(Outcome::Passed)
}
