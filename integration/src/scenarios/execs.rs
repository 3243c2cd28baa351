//! More processes in a running container, as containerd's clients ask for them.

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("exec", exec).image(DEBIAN),
    Scenario::new("exec-with-a-terminal", terminal).image(DEBIAN),
    Scenario::new("exec-outlives-nothing", outlives_nothing).long(),
    Scenario::new("exec-leaves-its-output-open", leaves_its_output_open).image(DEBIAN).long(),
    Scenario::new("attach", attach).long(),
];

fn running(ctx: &Ctx, image: &str, flags: &[&str]) -> Result<String> {
    let id = ctx.id("");
    ctx.run(&[&["--detach", "--null-io"], flags].concat(), image, &id, &["sleep", "1000"]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    Ok(id)
}

/// User, directory, environment, input, output and status are the exec's own; what cannot be started is named and
/// leaves the container running; many run at once.
fn exec(ctx: &Ctx) -> Result<Outcome> {
    let id = running(ctx, DEBIAN, &["--env", "OF=container"])?;
    let exec = |name: &str, flags: &[&str], args: &[&str]| {
        ctx.ctr(&[&["task", "exec", "--exec-id", name], flags, &[id.as_str()], args].concat())
    };
    let script = "id -u; id -g; pwd; echo $OF; cat; echo oops >&2; exit 7";
    let first =
        exec("one", &["--user", "1000:2000", "--cwd", "/usr"], &["sh", "-c", script]).stdin("typed\n");
    let first = first.run()?.expect_status(7)?.printed("1000\n2000\n/usr\ncontainer\ntyped\n")?;
    ensure!(first.stderr_text().contains("oops"), "its standard error is missing: {first}");

    exec("missing", &[], &["/no/such/thing"]).run()?.refused(&["/no/such/thing"])?;
    exec("nowhere", &["--cwd", "/etc/passwd"], &["true"]).run()?.refused(&["/etc/passwd"])?;
    ctx.wait_for_status(&id, "RUNNING")?;

    let many: Vec<_> = (0..10)
        .map(|i| exec(&format!("many-{i}"), &[], &["sh", "-c", &format!("echo {i}; exit {i}")]).spawn())
        .collect::<Result<_>>()?;
    for (i, one) in many.into_iter().enumerate() {
        one.finish()?.expect_status(i as i32)?.printed(&format!("{i}\n"))?;
    }

    let mut first = exec("taken", &[], &["sh", "-c", "echo up; exec sleep 1000"]).spawn()?;
    first.wait_for_stdout("up")?;
    exec("taken", &[], &["true"]).run()?.refused(&["exists"])?;
    ctx.ctr(&["task", "kill", "--exec-id", "taken", "--signal", "SIGTERM", &id]).run()?.ok()?;
    first.finish()?.expect_status(143)?;

    // One that daemonised, and what it started, is still the container's to end.
    exec("daemon", &[], &["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo begun"])
        .run()?
        .ok()?
        .printed("begun\n")?;
    let listed = exec("list", &[], &["pgrep", "-c", "sleep"]).run()?.ok()?;
    listed.printed("2\n")?;
    ctx.end(&id)?;
    Ok(Outcome::Passed)
}

/// A terminal of the size of its client's, raw or not, with Ctrl-C and end of input.
fn terminal(ctx: &Ctx) -> Result<Outcome> {
    let id = running(ctx, DEBIAN, &[])?;
    // `script` is the terminal that ctr runs in.
    let on_terminal = |name: &str, columns: u32, command: &str| {
        let exec =
            format!("stty rows 31 cols {columns}; exec ctr task exec -t --exec-id {name} {id} {command}");
        Cmd::new(&["script", "-qec", &exec, "/dev/null"])
    };
    let size = on_terminal("size", 97, "sh -c 'test -t 0 && test -t 1 && stty size; tty; exit 5'").run()?;
    let size = size.expect_status(5)?;
    ensure!(size.stdout_text().contains("31 97"), "not the client's size: {size}");
    ensure!(size.stdout_text().contains("/dev/pts/"), "no terminal: {size}");

    let mut trap = on_terminal(
        "interrupt",
        80,
        "sh -c 'trap \"echo caught; exit 9\" INT; echo ready; while :; do sleep 0.1; done'",
    )
    .hold_stdin()
    .spawn()?;
    trap.wait_for_stdout("ready")?;
    trap.say("\x03")?;
    let trapped = trap.finish()?.expect_status(9)?;
    ensure!(trapped.stdout_text().contains("caught"), "no interrupt: {trapped}");

    let script = r#"sh -c 'trap "stty size; exit 8" WINCH; echo ready; while :; do sleep 0.1; done'"#;
    let exec = format!("tty; exec ctr task exec -t --exec-id resized {id} {script}");
    let mut resized = Cmd::new(&["script", "-qec", &exec, "/dev/null"]).hold_stdin().spawn()?;
    resized.wait_for_stdout("ready")?;
    let printed = String::from_utf8_lossy(&resized.stdout_now()).into_owned();
    let clients = printed.lines().next().context("the client's terminal")?.trim();
    Cmd::new(&["stty", "-F", clients, "rows", "41", "cols", "101"]).run()?.ok()?;
    resized.wait_for_stdout("41 101")?;
    resized.finish()?.expect_status(8)?;

    let mut stopped = on_terminal(
        "stop",
        80,
        "sh -c 'trap \"echo stopped; exit 6\" TSTP; echo ready; while :; do sleep 0.1; done'",
    )
    .hold_stdin()
    .spawn()?;
    stopped.wait_for_stdout("ready")?;
    stopped.say("\x1a")?;
    stopped.finish()?.expect_status(6)?;

    let mut echo = on_terminal("end", 80, "sh -c 'echo ready; cat; echo over'").hold_stdin().spawn()?;
    echo.wait_for_stdout("ready")?;
    echo.say("line\r")?;
    // ctr leaves its own terminal to add a return to each.
    echo.wait_for_stdout("line\r\r\nline\r\r\n")?;
    echo.say("\x04")?;
    echo.finish()?.ok()?;
    ctx.end(&id)?;
    Ok(Outcome::Passed)
}

/// An exec that has ended is over, also when a process that it left behind has its output open.
fn leaves_its_output_open(ctx: &Ctx) -> Result<Outcome> {
    let id = running(ctx, DEBIAN, &[])?;
    let script = "sleep 1000 & echo begun; exit 3";
    let exec = ctx.ctr(&["task", "exec", "--exec-id", "e", &id, "sh", "-c", script]).timeout(60).run()?;
    exec.expect_status(3)?.printed("begun\n")?;
    let left = ctx.ctr(&["task", "exec", "--exec-id", "look", &id, "pgrep", "-c", "sleep"]).run()?.ok()?;
    left.printed("2\n")?;
    ctx.end(&id)?;
    Ok(Outcome::Passed)
}

/// A client attaches to a container that runs, goes away, and another one takes its place.
fn attach(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let script = "while read line; do echo got $line; done; exit 5";
    // ctr ends the container's input with its own, even while it still starts: that of this one never ends.
    let endless = ctx.work("endless").display().to_string();
    let words = format!(
        "mkfifo {endless}; exec ctr run --runtime {} --detach {BUSYBOX} {id} sh -c '{script}' <>{endless}",
        ctx.runtime.containerd_name()
    );
    Cmd::new(&["sh", "-c", &words]).run()?.ok()?;
    let attached = || ctx.ctr(&["task", "attach", &id]).hold_stdin().spawn();
    let mut first = attached()?;
    first.say("one\n")?;
    first.wait_for_stdout("got one\n")?;
    first.signal(Signal::SIGKILL)?;
    first.finish()?;
    let mut second = attached()?;
    second.say("two\n")?;
    second.wait_for_stdout("got two\n")?;
    ctx.kill(&id, "SIGKILL")?.ok()?;
    // Whoever is attached at its end deletes the task.
    second.finish()?.expect_status(137)?;
    ctx.ctr(&["container", "rm", &id]).run()?.ok()?;
    Ok(Outcome::Passed)
}

/// The container's end ends its execs, each with its own record.
fn outlives_nothing(ctx: &Ctx) -> Result<Outcome> {
    let id = running(ctx, BUSYBOX, &[])?;
    let mut exec =
        ctx.ctr(&["task", "exec", "--exec-id", "e", &id, "sh", "-c", "echo up; sleep 1000"]).spawn()?;
    exec.wait_for_stdout("up")?;
    ctx.kill(&id, "SIGKILL")?.ok()?;
    exec.finish()?.expect_status(137)?;
    ctx.ctr(&["task", "exec", "--exec-id", "late", &id, "true"]).run()?.refused(&[])?;
    ctx.wait_for_status(&id, "STOPPED")?;
    ensure!(ctx.remove(&id)? == 137, "the container was killed");
    Ok(Outcome::Passed)
}
