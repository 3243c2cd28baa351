//! What people do with nerdctl: run in front and behind, look at, change, copy, end.

use crate::client::NERDCTL;
use crate::command::{Cmd, Output};
use crate::ctx::{BUSYBOX, Ctx};
use crate::procs;
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("nerdctl-run", run_with_flags).needs("nerdctl"),
    Scenario::new("nerdctl-background", background).needs("nerdctl").timeout(400),
    Scenario::new("nerdctl-grow", grow)
        .needs("nerdctl")
        .krun_only("under runc a limit grows as far as the host goes"),
    Scenario::new("nerdctl-terminal", terminal).needs("nerdctl").timeout(300),
    Scenario::new("nerdctl-restart", restart).needs("nerdctl").timeout(300),
];

/// `nerdctl ARGS…`
pub fn nerdctl(args: &[&str]) -> Cmd {
    NERDCTL.cmd(args)
}

/// Each flag does to the container what it says.
fn run_with_flags(ctx: &Ctx) -> Result<Outcome> {
    let volume = ctx.work("volume");
    fs::create_dir_all(&volume).context("make a volume")?;
    fs::write(volume.join("file"), "of the host\n").context("write to the volume")?;
    let environment = ctx.work("environment");
    fs::write(&environment, "FROM_FILE=yes\n").context("write an environment file")?;
    let (volume, environment) = (volume.display().to_string(), environment.display().to_string());
    let script = r#"
        echo "$(id -u):$(id -g) $(hostname) $FROM_FILE $FROM_FLAG $(ulimit -n)"
        grep -E 'CapEff|CapBnd' /proc/self/status
        cd /sys/fs/cgroup; cat memory.max cpu.max pids.max
        cat /ro/file; echo x 2>/dev/null >/ro/x || echo "/ro is read-only"
        echo "of the guest" >/rw/written && echo "/rw is writable"
        echo x 2>/dev/null >/x || echo "/ is read-only"
        echo x >/scratch/x && grep -c ' /scratch tmpfs ' /proc/mounts
        exit 7
    "#;
    let (read_only, writable) = (format!("{volume}:/ro:ro"), format!("type=bind,src={volume},dst=/rw"));
    fs::set_permissions(&volume, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .context("open the volume")?;
    #[rustfmt::skip]
    let flags = [
        "--rm", "--net", "none", "--hostname", "guest", "--user", "1000:2000", "--read-only",
        "-v", &read_only, "--mount", &writable, "--tmpfs", "/scratch:mode=1777",
        "--cap-drop", "ALL", "--cap-add", "CHOWN", "--ulimit", "nofile=99:99",
        "--cpus", "0.5", "-m", "64m", "--pids-limit", "50", "--env-file", &environment, "-e", "FROM_FLAG=too",
    ];
    let expected = "1000:2000 guest yes too 99\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000001\n\
        67108864\n50000 100000\n50\nof the host\n/ro is read-only\n/rw is writable\n/ is read-only\n1\n";
    NERDCTL.run(ctx, &flags, script).run()?.expect_status(7)?.printed(expected)?;
    let written = fs::read_to_string(format!("{volume}/written")).context("read what the guest wrote")?;
    ensure!(written == "of the guest\n", "the volume holds {written:?}");
    Ok(Outcome::Passed)
}

/// A container in the background, whose output goes through nerdctl's logger.
fn background(ctx: &Ctx) -> Result<Outcome> {
    let name = ctx.id("");
    let name = name.as_str();
    let exec = |script: &str| nerdctl(&["exec", name, "sh", "-c", script]).run()?.ok();
    let script = "echo out; echo err >&2; trap 'echo over; exit 7' TERM; while :; do sleep 0.2; done";
    NERDCTL.run(ctx, &["-d", "--name", name, "--net", "none", "-m", "64m"], script).run()?.ok()?;
    until_true("both outputs in the log", Duration::from_secs(30), || {
        let logs = nerdctl(&["logs", name]).run()?.ok()?;
        Ok(logs.stdout_text() == "out\n" && logs.stderr_text().contains("err\n"))
    })?;
    ensure!(NERDCTL.state(name, "Status")? == "running", "it is {}", NERDCTL.state(name, "Status")?);

    let pid = NERDCTL.state(name, "Pid")?;
    let top = nerdctl(&["top", name]).run()?.ok()?;
    let lists_pid = |l: &str| l.split_whitespace().nth(1) == Some(&pid);
    ensure!(top.stdout_text().lines().any(lists_pid), "nerdctl top does not list pid {pid}: {top}");
    // A busy box can make nerdctl give up on a sample, which it shows as zeros.
    until_true("stats", Duration::from_secs(60), || {
        let format = "{{.MemUsage}} pids {{.PIDs}}";
        let stats = nerdctl(&["stats", "--no-stream", "--format", format, name]).run()?.ok()?.stdout_text();
        Ok(stats.contains(" / 64MiB pids ") && !stats.starts_with("0B") && !stats.contains("pids 0"))
    })?;

    let (put, got) = (ctx.work("put").display().to_string(), ctx.work("got").display().to_string());
    fs::write(&put, "from the host\n").context("write a file to be copied")?;
    nerdctl(&["cp", &put, &format!("{name}:/root/put")]).run()?.ok()?;
    exec("cat /root/put; echo from the guest >/root/got")?.printed("from the host\n")?;
    nerdctl(&["cp", &format!("{name}:/root/got"), &got]).run()?.ok()?;
    let copied = fs::read_to_string(&got).context("read what was copied")?;
    ensure!(copied == "from the guest\n", "nerdctl cp copied {copied:?}");

    nerdctl(&["update", "-m", "80m", "--pids-limit", "60", name]).run()?.ok()?;
    exec("cd /sys/fs/cgroup; cat memory.max pids.max")?.printed("83886080\n60\n")?;
    nerdctl(&["pause", name]).run()?.ok()?;
    ensure!(NERDCTL.state(name, "Status")? == "paused", "a paused one is {}", NERDCTL.state(name, "Status")?);
    nerdctl(&["unpause", name]).run()?.ok()?;

    let mut follow = nerdctl(&["logs", "-f", name]).spawn()?;
    follow.wait_for_stdout("out")?;
    nerdctl(&["stop", name]).run()?.ok()?;
    follow.finish()?.ok()?.printed("out\nover\n")?;
    ensure!(NERDCTL.state(name, "ExitCode")? == "7", "it ended with {}", NERDCTL.state(name, "ExitCode")?);
    remove(name)?;
    Ok(Outcome::Passed)
}

/// A limit grows as far as the VM has room: by default little more than its first, or what was made for it.
fn grow(ctx: &Ctx) -> Result<Outcome> {
    let name = ctx.id("");
    let flags = [
        "-d",
        "--name",
        &name,
        "--net",
        "none",
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--tmpfs",
        "/filled:size=1300m",
    ];
    let room = ["--annotation", "io.containerd.krun.max_memory_mib=1500"];
    NERDCTL.run(ctx, &[&flags[..], &room].concat(), "exec sleep 1000").run()?.ok()?;
    let update = |what: &[&str]| nerdctl(&[&["update"], what, &[&name]].concat()).run();
    update(&["-m", "1500m"])?.ok()?;
    update(&["-m", "1501m"])?.refused(&["1501 MiB", "1500 MiB", "max_memory_mib"])?;
    update(&["--cpu-period", "100000", "--cpu-quota", "200000"])?
        .refused(&["2 CPUs", "has 1", "max_cpus"])?;
    // What the guest enforces the host does, too.
    update(&["--cpu-period", "100000", "--cpu-quota", "80000"])?.ok()?;
    let pid = NERDCTL.state(&name, "Pid")?.parse().context("a pid")?;
    let file = format!("/sys/fs/cgroup{}/cpu.max", procs::cgroup_of(pid)?);
    let quota = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    ensure!(quota == "80000 100000\n", "{file} holds {quota}");
    // More than a VM has that was not asked for room.
    let fill = "dd if=/dev/zero of=/filled/file bs=1M count=1200 2>/dev/null; du -m /filled/file; cat /sys/fs/cgroup/memory.max";
    let filled = nerdctl(&["exec", &name, "sh", "-c", fill]).run()?.ok()?;
    filled.printed("1200\t/filled/file\n1572864000\n")?;
    remove(&name)?;
    Ok(Outcome::Passed)
}

fn remove(name: &str) -> Result<Output> {
    nerdctl(&["rm", "-f", name]).run()?.ok()
}

/// Terminals: of a container in front, of one behind, of an exec; and the end by a signal.
fn terminal(ctx: &Ctx) -> Result<Outcome> {
    let (name, runtime) = (ctx.id(""), ctx.runtime.containerd_name());
    let script = "test -t 0 && test -t 1 && echo a terminal; read line; echo said $line; exit 5";
    let words = format!("run -it --rm --net host --runtime {runtime} {BUSYBOX} sh -c '{script}'");
    let mut front = NERDCTL.on_a_terminal(&words).hold_stdin().spawn()?;
    front.wait_for_stdout("a terminal")?;
    front.say("hello\n")?;
    front.finish()?.expect_status(5)?.has_line("said hello")?;

    let script = "test -t 1 && echo behind on a terminal; sleep 1000";
    NERDCTL.run(ctx, &["-d", "-t", "--name", &name, "--net", "none"], script).run()?.ok()?;
    until_true("the terminal's log", Duration::from_secs(30), || {
        Ok(nerdctl(&["logs", &name]).run()?.ok()?.stdout_text() == "behind on a terminal\r\n")
    })?;
    let words = format!("exec -it {name} sh -c 'test -t 0 && echo exec on a terminal; exit 4'");
    // nerdctl says so, and ends with its own 1. With runc as well, a NUL is typed now and then, and shown.
    let exec = NERDCTL.on_a_terminal(&words).run()?.expect_status(1)?.stdout_text();
    let said = ["exec on a terminal", "exit code 4"].iter().all(|text| exec.contains(text));
    ensure!(said && !exec.contains("ERRO"), "nerdctl exec said {exec}");
    nerdctl(&["kill", &name]).run()?.ok()?;
    until_true("its end", Duration::from_secs(30), || Ok(NERDCTL.state(&name, "Status")? == "exited"))?;
    ensure!(
        NERDCTL.state(&name, "ExitCode")? == "137",
        "killed, it ended with {}",
        NERDCTL.state(&name, "ExitCode")?
    );
    remove(&name)?;
    Ok(Outcome::Passed)
}

/// containerd's monitor starts a container that has ended again, and leaves one alone that is starting.
fn restart(ctx: &Ctx) -> Result<Outcome> {
    let name = ctx.id("");
    let runs = ctx.work("runs");
    fs::create_dir_all(&runs).context("make a volume")?;
    let volume = format!("{}:/runs", runs.display());
    let script = "echo run >>/runs/list; [ $(wc -l </runs/list) -gt 1 ] && sleep 1000; exit 3";
    let flags = ["-d", "--name", &name, "--net", "none", "--restart", "always", "-v", &volume];
    NERDCTL.run(ctx, &flags, script).run()?.ok()?;
    until_true("its second run", Duration::from_secs(120), || {
        let list = fs::read_to_string(runs.join("list")).unwrap_or_default();
        Ok(list == "run\nrun\n" && NERDCTL.state(&name, "Status")? == "running")
    })?;
    remove(&name)?;
    Ok(Outcome::Passed)
}
