//! What can be done to a running container: pausing, limits, numbers, and the host's clock.

use crate::command::Cmd;
use crate::containerd_log;
use crate::ctx::{BUSYBOX, Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use crate::{spec, undo};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::os::unix::net::UnixListener;
use std::time::{Duration, SystemTime};

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("pause-stats-update", pause_stats_update).image(DEBIAN),
    Scenario::new("out-of-memory", out_of_memory).image(DEBIAN),
    Scenario::new("clock-follows-host", clock).long(),
    Scenario::new("host-socket", host_socket).image(DEBIAN),
    Scenario::new("hooks", hooks),
];

fn exec(ctx: &Ctx, id: &str, name: &str, script: &str) -> Cmd {
    ctx.ctr(&["task", "exec", "--exec-id", name, id, "sh", "-c", script])
}

/// A paused container does nothing and refuses execs; its numbers are sane; a new limit holds.
fn pause_stats_update(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let counter = ctx.work("counted");
    fs::create_dir_all(&counter).context("make the shared directory")?;
    let mount = format!("type=bind,src={},dst=/out,options=rbind:rw", counter.display());
    let script = "i=0; while :; do i=$((i+1)); echo $i >/out/count; sleep 0.05; done";
    let flags = ["--detach", "--null-io", "--mount", &mount, "--memory-limit", "134217728"];
    ctx.run(&flags, DEBIAN, &id, &["sh", "-c", script]).run()?.ok()?;
    let count = || Ok::<_, anyhow::Error>(fs::read_to_string(counter.join("count")).unwrap_or_default());
    until_true("it to count", Duration::from_secs(60), || Ok(!count()?.is_empty()))?;

    let metrics = ctx.ctr(&["task", "metrics", "--format", "json", &id]).run()?.ok()?.stdout_text();
    for name in ["\"usage_usec\"", "\"usage\"", "\"current\""] {
        ensure!(metrics.contains(name), "no {name} in the metrics: {metrics}");
    }
    ensure!(metrics.contains("134217728"), "the limit of 128 MiB is not in the metrics: {metrics}");

    ctx.ctr(&["task", "pause", &id]).run()?.ok()?;
    ctx.wait_for_status(&id, "PAUSED")?;
    let before = count()?;
    exec(ctx, &id, "while-paused", "true").run()?.refused(&["paused"])?;
    ensure!(count()? == before, "it counts on while it is paused");
    ctx.ctr(&["task", "resume", &id]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    until_true("it to count on", Duration::from_secs(30), || Ok(count()? != before))?;

    if ctx.krun() {
        ctx.ctr(&["task", "checkpoint", &id]).run()?.refused(&["implemented"])?;
    }
    ctx.end(&id)?;
    Ok(Outcome::Passed)
}

/// A container that wants more than its limit is killed for it, and containerd hears why.
fn out_of_memory(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let mark = containerd_log::mark();
    let hungry = "x = bytearray(); \nwhile True: x += b'x' * (4 << 20)";
    let run = ctx.run(&["--rm", "--memory-limit", "67108864"], DEBIAN, &id, &["python3", "-c", hungry]);
    run.timeout(200).run()?.expect_status(137)?;
    ensure!(mark.line_with(&["oom"])?.is_some(), "the log does not say that memory ran out");

    // A child: the container goes on, and containerd hears of it meanwhile.
    let (id, mark) = (ctx.id("child"), containerd_log::mark());
    let script = format!("echo up; read line; python3 -c \"{hungry}\"; echo child $?; read line; exit 5");
    let flags = ["--rm", "--memory-limit", "67108864"];
    let mut running =
        ctx.run(&flags, DEBIAN, &id, &["sh", "-c", &script]).hold_stdin().timeout(200).spawn()?;
    running.wait_for_stdout("up")?;
    ensure!(mark.line_with(&["oom"])?.is_none(), "the log says so of a container with enough memory");
    running.say("go\n")?;
    running.wait_for_stdout("child 137")?;
    until_true("containerd to hear of it", Duration::from_secs(20), || {
        Ok(mark.line_with(&["oom"])?.is_some())
    })?;
    ctx.wait_for_status(&id, "RUNNING")?;
    running.say("end\n")?;
    running.finish()?.expect_status(5)?;
    Ok(Outcome::Passed)
}

/// The host's clock is stepped by an hour, and the guest's with it.
fn clock(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    ctx.run(&["--detach", "--null-io"], BUSYBOX, &id, &["sleep", "100000"]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    let off_by = |name: &str| -> Result<i64> {
        let date = exec(ctx, &id, name, "date +%s").run()?.ok()?.stdout_text();
        let host = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() as i64;
        Ok(date.trim().parse::<i64>().context("date +%s")? - host)
    };
    ensure!(
        off_by("before")?.abs() <= 30,
        "the guest's clock is off by {} s from the start",
        off_by("again")?
    );
    undo::remember(&["date", "-s", "-1 hour"])?;
    Cmd::new(&["date", "-s", "+1 hour"]).run()?.ok()?;
    let mut tries = 0;
    until_true("the guest's clock to follow", Duration::from_secs(30), || {
        tries += 1;
        Ok(off_by(&format!("after-{tries}"))?.abs() <= 30)
    })?;
    ctx.end(&id)?;
    Ok(Outcome::Passed)
}

/// A unix socket of the host that is bound into a container reaches the host's server, with its permissions.
fn host_socket(ctx: &Ctx) -> Result<Outcome> {
    let path = ctx.work("server.sock");
    let server = UnixListener::bind(&path).context("listen")?;
    let serving = std::thread::spawn(move || -> Result<()> {
        for _ in 0..3 {
            let (client, _) = server.accept()?;
            // An echo that ends when its client says so.
            std::io::copy(&mut &client, &mut &client)?;
        }
        Ok(())
    });
    let script = r#"
import os, socket, stat
print(stat.S_ISSOCK(os.stat("/run/server.sock").st_mode))
for size in (5, 1000000, 0):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("/run/server.sock")
        sent = os.urandom(size)
        import threading
        def send():
            s.sendall(sent)
            s.shutdown(socket.SHUT_WR)
        threading.Thread(target=send).start()
        got = b""
        while chunk := s.recv(65536):
            got += chunk
        print(size, got == sent)
"#;
    let mount = format!("type=bind,src={},dst=/run/server.sock,options=rbind:rw", path.display());
    let run = ctx.python(&["--mount", &mount], &ctx.id(""), script).run()?.ok()?;
    run.printed("True\n5 True\n1000000 True\n0 True\n")?;
    serving.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    Ok(Outcome::Passed)
}

/// Hooks run on the host in their order, each told the state; one that fails fails the create and leaves nothing.
fn hooks(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let log = ctx.work("hooks.log");
    let hook = |name: &str| {
        let script = format!("echo {name} $(grep -o '\"status\":\"[a-z]*\"') >> {}", log.display());
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 20 }])
    };
    let mut spec = spec::new(ctx, &id, &["true"])?;
    spec["hooks"] = json!({ "prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
        "poststart": hook("poststart"), "poststop": hook("poststop") });
    spec::run(ctx, &["--rm"], &spec, &id)?.run()?.ok()?;
    let told = fs::read_to_string(&log).context("read what the hooks wrote")?;
    let names: Vec<_> = told.lines().filter_map(|line| line.split(' ').next()).collect();
    ensure!(names == ["prestart", "createRuntime", "poststart", "poststop"], "the hooks ran so: {told}");
    ensure!(
        told.contains("createRuntime \"status\":\"creat"),
        "createRuntime was told another state: {told}"
    );
    ensure!(told.contains("poststop \"status\":\"stopped\""), "poststop was told another state: {told}");

    spec["hooks"] =
        json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 3"] }] });
    spec::run(ctx, &["--rm"], &spec, &id)?.run()?.refused(&["hook", "no luck"])?;
    spec["hooks"] =
        json!({ "createRuntime": [{ "path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1 }] });
    spec::run(ctx, &["--rm"], &spec, &id)?.run()?.refused(&["hook"])?;
    Ok(Outcome::Passed)
}
