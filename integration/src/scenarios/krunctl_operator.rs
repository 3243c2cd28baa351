//! `krunctl exec --sandbox`: an operator's shell in a VM that containerd has, outside of its containers.

use crate::command::{Cmd, Output};
use crate::cri::{file, handler, says, set_up, unsuitable};
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;

use super::krunctl::WHY;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("krunctl-operator", operator).krun_only(WHY),
    Scenario::new("krunctl-operator-pod", in_pod).long().needs("crictl").krun_only(WHY),
];

fn in_vm(id: &str, flags: &[&str], script: &str) -> Result<Output> {
    let words = [&["krunctl", "exec", "--sandbox", id], flags, &["--", "/bin/sh", "-c", script]];
    Cmd::new(&words.concat()).stdin("input\n").run()
}

/// Where the administrator allows it, it sees the whole VM, and can write nothing of the host; elsewhere it is refused.
fn operator(ctx: &Ctx) -> Result<Outcome> {
    let root = spec::busybox_root(&ctx.work("root"))?;
    for applet in ["grep", "mount"] {
        symlink("busybox", root.join("bin").join(applet)).context("link an applet")?;
    }
    let config = ctx.work("config.toml");
    fs::write(&config, format!("operator_root = {:?}\n", root.display().to_string())).context("configure")?;
    let config = config.display().to_string();
    let (open, closed, other) = (ctx.id("open"), ctx.id("closed"), ctx.id("other"));
    let wait = ["sh", "-c", "echo mine >/tmp/file; exec sleep 1000"];
    ctx.run(&["-d", "--runtime-config-path", &config], BUSYBOX, &open, &wait).run()?.ok()?;
    ctx.run(&["-d"], BUSYBOX, &closed, &wait).run()?.ok()?;
    ctx.run_as("io.containerd.runc.v2", &["-d"], &[&[BUSYBOX, &other], &wait[..]].concat()).run()?.ok()?;

    let script = "cat /proc/1/comm; for of in /proc/[0-9]*; do
            read name <$of/comm; [ $name = sleep ] && cat $of/root/tmp/file; done
        mount -o remount,rw / && grep -c '^[^ ]* / .* rw' /proc/mounts
        echo x 2>/dev/null >/x || echo refused; echo y >/tmp/y; cat; exit 7";
    in_vm(&open, &["-i"], script)?.expect_status(7)?.printed("init.krun\nmine\n1\nrefused\ninput\n")?;
    ensure!(
        !root.join("x").exists() && !root.join("tmp/y").exists(),
        "the guest wrote to the operator's root"
    );
    // By the beginning of its id; the second does not see what the first has written.
    in_vm(&open[..open.len() - 2], &["-e", "A=b", "-w", "/bin"], "echo $A; pwd; ls /tmp")?
        .ok()?
        .printed("b\n/bin\n")?;
    in_vm(&open, &["--timeout", "3s"], "sleep 1000 & sleep 1000")?.expect_status(124)?;
    in_vm(&open, &[], "cat /proc/[0-9]*/comm | grep -c sleep")?.ok()?.printed("1\n")?;
    in_vm(&open, &[], "/no/such")?.expect_status(127)?;
    let words = ["krunctl", "exec", "--sandbox", &open, "--", "/bin/sh", "-c", "echo up; sleep 1000"];
    let mut signalled = Cmd::new(&words).spawn()?;
    signalled.wait_for_stdout("up\n")?;
    signalled.signal(Signal::SIGTERM)?;
    signalled.finish()?.expect_status(128 + 15)?;

    // On a terminal, which is a shell's without a command.
    let command = format!("krunctl exec --namespace default --state /run/containerd --sandbox {open}");
    let mut shell = Cmd::new(&["script", "-qec", &command, "/dev/null"]).hold_stdin().spawn()?;
    for (words, answer) in [("# ", "cat /proc/1/comm; echo $?=\r"), ("init.krun\r\n0=", "exit 5\r")] {
        shell.wait_for_stdout(words)?;
        shell.say(answer)?;
    }
    shell.finish()?.expect_status(5)?;
    in_vm(&open, &["--namespace", "other"], "true")?
        .expect_status(125)?
        .refused(&["no such sandbox", "other"])?;
    in_vm(&open, &["--state", "/no/such"], "true")?.expect_status(125)?.refused(&["/no/such"])?;

    for (id, words) in [
        (&closed, &["operator_root"][..]),
        (&other, &["not be krun", "containerd-shim-runc-v2"]),
        (&"nobody".to_owned(), &["nobody", "no such sandbox"]),
        (&ctx.id(""), &["could be", &closed]),
    ] {
        in_vm(id, &[], "true")?.expect_status(125)?.refused(words)?;
    }
    // One whose client was killed ends with the container.
    let mut killed = Cmd::new(&words).spawn()?;
    killed.wait_for_stdout("up\n")?;
    killed.signal(Signal::SIGKILL)?;
    killed.finish()?;
    for id in [open, closed, other] {
        ctx.end(&id)?;
    }
    // It removes the directory of the client that was killed.
    Cmd::new(&[
        "krunctl",
        "run",
        "--root",
        &root.display().to_string(),
        "--memory",
        "256",
        "--",
        "/bin/true",
    ])
    .run()?
    .ok()?;
    Ok(Outcome::Passed)
}

/// A pod's VM is found by the pod's id, and not by a container's.
fn in_pod(ctx: &Ctx) -> Result<Outcome> {
    if let Some(why) = unsuitable()? {
        return Ok(Outcome::Skipped(why));
    }
    let root = spec::busybox_root(&ctx.work("root"))?;
    for applet in ["grep", "tr"] {
        symlink("busybox", root.join("bin").join(applet)).context("link an applet")?;
    }
    let drop_in = "/etc/krun/config.d/scenario.toml";
    crate::undo::remember(&["sh", "-c", &format!("rm {drop_in}; rmdir /etc/krun/config.d /etc/krun; true")])?;
    fs::create_dir_all("/etc/krun/config.d").context("make /etc/krun/config.d")?;
    fs::write(drop_in, format!("operator_root = {:?}\n", root.display().to_string())).context(drop_in)?;
    set_up(ctx)?;
    let options = json!({"security_context": {"namespace_options": {"network": 0, "pid": 1, "ipc": 0}}});
    let metadata = json!({"name": "held", "uid": "held-1", "namespace": "default"});
    let pod = file(ctx, "pod", &json!({"metadata": metadata, "linux": options}))?;
    let container = |name: &str, seconds: &str| {
        let described = json!({
            "metadata": {"name": name}, "image": {"image": BUSYBOX}, "command": ["sleep", seconds], "linux": options,
        });
        file(ctx, name, &described)
    };
    let id = says(&["runp", "--runtime", handler(ctx), &pod])?;
    let mut members = Vec::new();
    for (name, seconds) in [("one", "1001"), ("two", "1002")] {
        let member = says(&["create", "--no-pull", &id, &container(name, seconds)?, &pod])?;
        says(&["start", &member])?;
        members.push(member);
    }
    // Both containers' processes, and the pod's network.
    let script =
        "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^100[12]$'; grep -c eth0 /proc/net/dev";
    in_vm(&id, &[], script)?.ok()?.printed("2\n1\n")?;
    in_vm(&id[..13], &["--namespace", "k8s.io"], "true")?.ok()?;
    in_vm(&members[0], &[], "true")?.expect_status(125)?.refused(&["its VM is that of sandbox", &id])?;
    says(&["rmp", "--force", &id])?;
    Ok(Outcome::Passed)
}
