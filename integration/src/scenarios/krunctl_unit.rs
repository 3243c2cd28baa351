//! krunctl behind systemd: the unit of `docs/krunctl.md`, as it stands there but for names of this box.

use crate::command::Cmd;
use crate::ctx::Ctx;
use crate::procs::{self, cgroup_of};
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use crate::undo;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use super::krunctl::WHY;
use super::krunctl_kill_points::Seen;

pub const SCENARIOS: &[Scenario] =
    &[Scenario::new("krunctl-systemd-unit", unit).long().krun_only(WHY).timeout(900)];

const DOCS: &str = include_str!("../../../docs/krunctl.md");
const NAME: &str = "krunctl-scenario.service";
const FILE: &str = "/run/systemd/system/krunctl-scenario.service";
const SECRET: &str = "hunter2-of-the-unit";
const PATIENCE: Duration = Duration::from_secs(90);

/// Its server, and what it was given.
const APP: &str = "#!/bin/sh
trap 'sleep 1; echo bye; exit 0' TERM
echo serving; echo \"$HOST $INTERNAL_SECRET\" >/www/index.html; httpd -f -p 80 -h /www & wait
";

fn systemctl(words: &[&str]) -> Result<String> {
    Ok(Cmd::new(&[&["systemctl"], words].concat()).run()?.ok()?.stdout_text().trim().to_owned())
}

fn property(name: &str) -> Result<String> {
    systemctl(&["show", "--value", "--property", name, NAME])
}

fn page() -> Result<String> {
    Ok(Cmd::new(&["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8123/"]).run()?.stdout_text())
}

/// The docs' unit, for an app in `root` whose secrets are in the file `secrets`. It pulls in nothing that this box's systemd does not
/// run: so it logs to a file.
fn written(root: &str, secrets: &str, log: &str) -> Result<String> {
    let begin = DOCS.find("[Service]\nType=notify").context("no unit in docs/krunctl.md")?;
    let unit = DOCS[begin..].split("```").next().context("the unit has no end")?;
    let unit = unit.replace("/etc/app/secrets", secrets).replace("/srv/app", root);
    let unit = unit.replace("--memory 512", "--memory 256").replace("MemoryMax=1200M", "MemoryMax=944M");
    Ok(format!(
        "[Unit]\nDefaultDependencies=no\n{unit}StandardOutput=append:{log}\nStandardError=append:{log}\n"
    ))
}

fn unit(ctx: &Ctx) -> Result<Outcome> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(Outcome::Skipped(
            "systemd is not this box's init (hack/box up --init systemd)".to_owned(),
        ));
    }
    let root = spec::busybox_root(&ctx.work("root"))?;
    symlink("busybox", root.join("bin/httpd"))?;
    fs::create_dir(root.join("www"))?;
    fs::write(root.join("bin/app"), APP)?;
    fs::set_permissions(root.join("bin/app"), PermissionsExt::from_mode(0o755))?;
    let secrets = ctx.work("secrets");
    fs::write(&secrets, format!("HOST=example.org\nINTERNAL_SECRET={SECRET}\n"))?;
    fs::set_permissions(&secrets, PermissionsExt::from_mode(0o600))?;
    // systemd makes it for a service's file systems, and keeps it.
    undo::remember(&["sh", "-c", "systemctl stop system-modprobe.slice; true"])?;
    undo::remember(&["systemctl", "daemon-reload"])?;
    undo::remember(&["rm", "-f", FILE])?;
    undo::remember(&["sh", "-c", &format!("systemctl stop {NAME}; systemctl reset-failed {NAME}; true")])?;
    let path = |name: &str| ctx.work(name).display().to_string();
    fs::write(FILE, written(&path("root"), &path("secrets"), &path("log"))?).context(FILE)?;
    systemctl(&["daemon-reload"])?;
    let before = Seen::now()?;
    // It is ready when the server answers.
    systemctl(&["start", NAME])?;
    ensure!(page()? == format!("example.org {SECRET}\n"), "the page is {:?}", page()?);
    limits_count()?;
    keeps_secrets(ctx)?;
    for signal in ["SIGTERM", "SIGKILL"] {
        let main = property("MainPID")?;
        Cmd::new(&["kill", "-s", signal, &main]).run()?.ok()?;
        is_up_again(&main).with_context(|| signal.to_owned())?;
        println!("tried: {signal} of a unit's krunctl: it was started again, and one VM runs");
    }
    let main = property("MainPID")?;
    let vmm = the_vmm()?;
    Cmd::new(&["kill", "-s", "SIGKILL", &vmm.to_string()]).run()?.ok()?;
    is_up_again(&main).context("SIGKILL of the vmm")?;
    println!("tried: SIGKILL of a unit's vmm: it was started again");
    // The app ends itself, in its time.
    systemctl(&["stop", NAME])?;
    let log = fs::read_to_string(ctx.work("log")).context("read the log")?;
    ensure!(log.ends_with("bye\n") && property("Result")? == "success", "it was not asked to end: {log}");
    before.is_back()?;
    Ok(Outcome::Passed)
}

/// The one vmm that there is.
fn the_vmm() -> Result<i32> {
    let vmms: Vec<_> = procs::all()?.into_iter().filter(|process| process.is_called("krun-vmm")).collect();
    ensure!(vmms.len() == 1, "there is not one vmm, but {vmms:?}");
    Ok(vmms[0].pid)
}

/// The VM is in the unit's cgroup, below its limits.
fn limits_count() -> Result<()> {
    let (vm, unit) = (cgroup_of(the_vmm()?)?, property("ControlGroup")?);
    ensure!(vm.starts_with(&format!("{unit}/krunctl-run")), "the VM is in {vm}, and the unit in {unit}");
    for (cgroup, at_most) in [(&vm, 768 << 20), (&unit, 944 << 20)] {
        let file = format!("/sys/fs/cgroup{cgroup}/memory.max");
        let limit: u64 = fs::read_to_string(&file)?.trim().parse().with_context(|| file.clone())?;
        ensure!(limit <= at_most, "{file} is {limit}");
    }
    Ok(())
}

/// No log has the secret, no command line, and nothing that another user can read.
fn keeps_secrets(ctx: &Ctx) -> Result<()> {
    let log = format!("cat {}", ctx.work("log").display());
    let shown = format!("systemctl status --no-pager {NAME}; systemctl show {NAME}");
    for command in ["dmesg", &log, &shown, "cat /proc/[0-9]*/cmdline 2>/dev/null; true"] {
        let said = Cmd::new(&["sh", "-c", command]).run()?.stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(!said.is_empty() && !said.contains(SECRET), "`{command}` says {said:?}");
    }
    // It sees the processes, but none of their variables, and none of krunctl's files.
    let search = format!(
        "cat /proc/[0-9]*/cmdline | grep -qa 'krun-[v]mm' && echo looked
         cat /proc/[0-9]*/environ 2>/dev/null | grep -qa {SECRET} && echo read
         find /run /tmp /var/log /dev/shm -type f -exec grep -qaF {SECRET} {{}} \\; -print 2>/dev/null; true"
    );
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c"];
    let found = Cmd::new(&[&nobody[..], &[&search]].concat()).run()?.stdout_text();
    let page = ctx.work("root").join("www/index.html").display().to_string();
    let found: Vec<_> = found.lines().filter(|line| *line != page).collect();
    ensure!(found == ["looked"], "another user finds the secret: {found:?}");
    Ok(())
}

/// Another process serves than `old`, and there is nothing that it did not make.
fn is_up_again(old: &str) -> Result<()> {
    until_true("the unit to serve again", PATIENCE, || {
        // Both at once.
        let shown = systemctl(&["show", "--property", "ActiveState,MainPID", NAME])?;
        ensure!(!shown.contains("=failed"), "it failed: {}", systemctl(&["show", NAME])?);
        let is_other = !shown.lines().any(|line| line == format!("MainPID={old}") || line == "MainPID=0");
        Ok(is_other && shown.lines().any(|line| line == "ActiveState=active"))
    })?;
    ensure!(page()?.contains(SECRET), "it does not serve");
    the_vmm()?;
    let bundles = fs::read_dir("/run/krun/ctl").context("/run/krun/ctl")?.count();
    let tables = Cmd::new(&["nft", "list", "tables"]).run()?.ok()?.stdout_text();
    let tables = tables.lines().filter(|line| line.contains("krunctl")).count();
    ensure!(bundles == 1 && tables == 1, "{bundles} bundles, {tables} tables");
    Ok(())
}
