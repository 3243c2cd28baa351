//! One container, in front and behind.

use super::daemon::{Daemon, NAMED_MIB};
use super::docker;
use crate::client::DOCKER;
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::Outcome;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// Each flag does to the container what it says.
pub fn with_flags(ctx: &Ctx) -> Result<Outcome> {
    let daemon = Daemon::start(ctx)?;
    let volume = ctx.work("volume");
    fs::create_dir_all(&volume).context("make a volume")?;
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).context("open the volume")?;
    fs::write(volume.join("file"), "of the host\n").context("write to the volume")?;
    let volume = volume.display().to_string();
    let script = r#"
        echo "$(id -u):$(id -g) $(hostname) $FROM_FLAG $(pwd) $(ulimit -n)"
        cat /proc/1/comm; grep CapBnd /proc/self/status
        cd /sys/fs/cgroup; cat memory.max cpu.max pids.max
        cat /ro/file /one; echo x 2>/dev/null >/ro/x || echo "/ro is read-only"
        echo "of the guest" >/rw/written && echo "/rw is writable"
        touch /named/x && echo "/named is writable"
        echo x 2>/dev/null >/x || echo "/ is read-only"
        grep -c ' /scratch tmpfs ' /proc/mounts; grep -c . /proc/net/dev
        cat; exit 7
    "#;
    let (read_only, writable, file) = (
        format!("{volume}:/ro:ro"),
        format!("type=bind,src={volume},dst=/rw"),
        format!("{volume}/file:/one"),
    );
    #[rustfmt::skip]
    let flags = [
        "--rm", "-i", "--init", "--network", "none", "--hostname", "guest", "--user", "1000:2000", "--read-only", "-w", "/tmp",
        "-v", &read_only, "--mount", &writable, "-v", &file, "-v", "kept:/named", "--tmpfs", "/scratch:mode=1777",
        "--cap-drop", "ALL", "--cap-add", "CHOWN", "--ulimit", "nofile=99:99",
        "--cpus", "0.5", "-m", "64m", "--pids-limit", "50", "-e", "FROM_FLAG=too",
    ];
    DOCKER.run(ctx, &["--rm", "--network", "none", "-v", "kept:/named"], "chmod 777 /named").run()?.ok()?;
    let expected = "1000:2000 guest too /tmp 99\ndocker-init\nCapBnd:\t0000000000000001\n67108864\n50000 100000\n50\n\
        of the host\nof the host\n/ro is read-only\n/rw is writable\n/named is writable\n/ is read-only\n1\n3\nfrom stdin\n";
    DOCKER.run(ctx, &flags, script).stdin("from stdin\n").run()?.expect_status(7)?.printed(expected)?;
    DOCKER.run(ctx, &["--rm"], "absent").run()?.expect_status(127)?;
    docker(&["run", "--rm", "--runtime", ctx.runtime.containerd_name(), BUSYBOX, "/absent"])
        .run()?
        .expect_status(127)?;
    // By its name in daemon.json, with options.
    let named =
        ["run", "--rm", "--runtime", "named", BUSYBOX, "awk", "/MemTotal/ {print $2}", "/proc/meminfo"];
    let kib = docker(&named).run()?.ok()?.stdout_text();
    let kib: u64 = kib.trim().parse().with_context(|| format!("MemTotal is {kib}"))?;
    // Without them it would have 1024 MiB.
    let is_its = (NAMED_MIB - 100..NAMED_MIB + 100).contains(&(kib >> 10));
    ensure!(is_its || !ctx.krun(), "a VM of {NAMED_MIB} MiB has {kib} KiB");
    let terminal = format!("run --rm -it --runtime {} {BUSYBOX} tty", ctx.runtime.containerd_name());
    let said = DOCKER.on_a_terminal(&terminal).run()?.ok()?.stdout_text();
    ensure!(said.contains("/dev/pts/0"), "on a terminal it says {said:?}");
    docker(&["volume", "rm", "kept"]).run()?.ok()?;
    daemon.stop()?;
    Ok(Outcome::Passed)
}

/// A container in the background: its log, what is done to it, and its end.
pub fn background(ctx: &Ctx) -> Result<Outcome> {
    let daemon = Daemon::start(ctx)?;
    let name = &ctx.id("");
    let script = "echo out; echo err >&2; trap 'echo over; exit 7' TERM; while :; do sleep 0.2; done";
    DOCKER.run(ctx, &["-d", "--name", name, "-m", "64m"], script).run()?.ok()?;
    until_true("both outputs in the log", Duration::from_secs(30), || {
        let logs = docker(&["logs", name]).run()?.ok()?;
        Ok(logs.stdout_text() == "out\n" && logs.stderr_text().contains("err\n"))
    })?;
    docker(&["top", name]).run()?.ok()?;
    until_true("stats", Duration::from_secs(60), || {
        let format = "{{.MemUsage}} pids {{.PIDs}}";
        let stats = docker(&["stats", "--no-stream", "--format", format, name]).run()?.ok()?.stdout_text();
        Ok(stats.contains(" / 64MiB pids ") && !stats.starts_with("0B") && !stats.contains("pids 0"))
    })?;
    // Into a container, Docker 28 copies only on Linux 6.6 and later (fchmodat2), with any runtime.
    DOCKER.says(name, "echo from the guest >/root/got")?;
    let got = ctx.work("got").display().to_string();
    docker(&["cp", &format!("{name}:/root/got"), &got]).run()?.ok()?;
    let copied = fs::read_to_string(&got).context("read what was copied")?;
    ensure!(copied == "from the guest\n", "docker cp copied {copied:?}");
    docker(&["update", "-m", "80m", "--memory-swap", "80m", "--pids-limit", "60", name]).run()?.ok()?;
    let limits = DOCKER.says(name, "cd /sys/fs/cgroup; cat memory.max pids.max")?;
    ensure!(limits == "83886080\n60", "after an update its limits are {limits}");
    docker(&[
        "exec",
        "-u",
        "1000",
        "-e",
        "A=b",
        "-w",
        "/tmp",
        name,
        "sh",
        "-c",
        "id -u; echo $A; pwd; exit 3",
    ])
    .run()?
    .expect_status(3)?
    .printed("1000\nb\n/tmp\n")?;
    docker(&["pause", name]).run()?.ok()?;
    ensure!(DOCKER.state(name, "Status")? == "paused", "a paused one is {}", DOCKER.state(name, "Status")?);
    docker(&["unpause", name]).run()?.ok()?;
    // With live-restore, containers go on when the daemon ends.
    let daemon = daemon.restart()?;
    ensure!(
        DOCKER.state(name, "Status")? == "running",
        "after dockerd's restart it is {}",
        DOCKER.state(name, "Status")?
    );
    ensure!(DOCKER.says(name, "cat /root/got")? == "from the guest", "exec after dockerd's restart");
    let mut follow = docker(&["logs", "-f", name]).spawn()?;
    follow.wait_for_stdout("out")?;
    docker(&["stop", name]).run()?.ok()?;
    follow.finish()?.ok()?.printed("out\nover\n")?;
    ensure!(DOCKER.state(name, "ExitCode")? == "7", "it ended with {}", DOCKER.state(name, "ExitCode")?);
    docker(&["commit", name, "localhost/committed:1"]).run()?.ok()?;
    let committed = [
        "run",
        "--rm",
        "--runtime",
        ctx.runtime.containerd_name(),
        "localhost/committed:1",
        "cat",
        "/root/got",
    ];
    docker(&committed).run()?.ok()?.printed("from the guest\n")?;
    docker(&["rm", name]).run()?.ok()?;
    daemon.stop()?;
    Ok(Outcome::Passed)
}

/// Restarts: asked for, by policy, and of a container that keeps its files.
pub fn restart(ctx: &Ctx) -> Result<Outcome> {
    let daemon = Daemon::start(ctx)?;
    let (kept, failing, unhealthy) = (&ctx.id("kept"), &ctx.id("failing"), &ctx.id("health"));
    DOCKER.run(ctx, &["-d", "--name", kept], "echo x >>/count; exec sleep 1000").run()?.ok()?;
    docker(&["restart", "-t", "0", kept]).run()?.ok()?;
    until_true("the second start", Duration::from_secs(60), || {
        Ok(DOCKER.says(kept, "cat /count")? == "x\nx")
    })?;
    DOCKER
        .run(ctx, &["-d", "--name", failing, "--restart", "on-failure:2"], "echo once; exit 3")
        .run()?
        .ok()?;
    until_true("the end of its restarts", Duration::from_secs(120), || {
        Ok(DOCKER.state(failing, "Status")? == "exited"
            && docker(&["inspect", "-f", "{{.RestartCount}}", failing]).run()?.stdout_text().trim() == "2")
    })?;
    docker(&["logs", failing]).run()?.ok()?.printed("once\nonce\nonce\n")?;
    let health = ["-d", "--name", unhealthy, "--health-cmd", "test -e /healthy", "--health-interval", "1s"];
    DOCKER.run(ctx, &health, "sleep 3; touch /healthy; exec sleep 1000").run()?.ok()?;
    until_true("its health", Duration::from_secs(60), || {
        Ok(DOCKER.state(unhealthy, "Health.Status")? == "healthy")
    })?;
    docker(&["rm", "-f", kept, failing, unhealthy]).run()?.ok()?;
    daemon.stop()?;
    Ok(Outcome::Passed)
}
