//! What an operator sees of sandboxes, with `krunctl ps`, `inspect` and `metrics`: it is true, also while a shim stands still, and
//! a guest's end, a failure and a boot are counted once.

mod prometheus;

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx};
use crate::procs;
use crate::scenario::{Outcome, Scenario};
use crate::veth;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("operator-view", operator_view).krun_only("runc has no sandboxes"),
    Scenario::new("operator-prometheus", prometheus::prometheus)
        .krun_only("runc has no sandboxes")
        .needs("promtool")
        .timeout(400)
        .long(),
];

/// Where the figures are.
const LISTEN: &str = "127.0.0.1:19477";

/// The socket for the shims' reports.
const REPORTS: &str = "/run/krun/metrics.sock";

const PATIENCE: Duration = Duration::from_secs(30);

fn operator_view(ctx: &Ctx) -> Result<Outcome> {
    let mut metrics = Cmd::new(&["krunctl", "metrics", "--listen", LISTEN]).timeout(220).spawn()?;
    until_true("krunctl metrics to answer", PATIENCE, || Ok(page().is_ok()))?;
    let second = Cmd::new(&["krunctl", "metrics", "--listen", "127.0.0.1:19478"]).run()?;
    second.refused(&["another process takes them", REPORTS])?;
    ensure!(value("krun_sandboxes{state=\"running\"}")? == 0.0, "there are sandboxes already");

    veth::make()?;
    let id = ctx.id("");
    let flags = veth::flags(Some("tap"));
    let flags: Vec<_> = ["--detach"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    ctx.run(&flags, BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    until_true("the guest to be up", PATIENCE, || Ok(inspect(&id)?["state"] == "running"))?;
    seen(ctx, &id)?;
    still(&id)?;
    traffic(ctx, &id)?;
    counted(ctx, &id)?;

    Cmd::new(&["krunctl", "inspect", &id]).run()?.refused(&[&id, "no such sandbox", "krunctl ps"])?;
    ensure!(sandboxes()?.is_empty(), "ps shows {:?} at the end", sandboxes()?);
    metrics.allow(PATIENCE);
    metrics.signal(Signal::SIGTERM)?;
    metrics.finish()?.ok()?;
    ensure!(!Path::new(REPORTS).exists(), "{REPORTS} is left");
    Ok(Outcome::Passed)
}

/// What is said of a sandbox is what it has.
fn seen(ctx: &Ctx, id: &str) -> Result<()> {
    let all = sandboxes()?;
    let [one] = &all[..] else { anyhow::bail!("ps shows {all:?}") };
    for (key, wanted) in [("namespace", "default"), ("id", id), ("state", "running"), ("network", "tap")] {
        ensure!(one[key] == *wanted, "ps: {key} is {}", one[key]);
    }
    ensure!(one["cpus"] == 1 && one["memory_mib"] == 1024, "ps: a size of {one}");
    let resident = one["resident_bytes"].as_u64().context("resident_bytes")?;
    ensure!((30 << 20..400 << 20).contains(&resident), "ps: {resident} bytes are resident");
    let table = Cmd::new(&["krunctl", "ps"]).run()?.ok()?.stdout_text();
    ensure!(table.starts_with("NAMESPACE") && table.contains(id), "ps prints {table}");

    let whole = inspect(id)?;
    ensure!(whole["pids"]["vmm"] == procs::vmm_of(id)?.pid, "inspect: the vmm is {}", whole["pids"]);
    ensure!(
        whole["pids"]["shim"] == procs::shim_of(id)?.context("a shim")?.pid,
        "inspect: {}",
        whole["pids"]
    );
    let kernel =
        ctx.ctr(&["task", "exec", "--exec-id", "uname", id, "uname", "-r"]).run()?.ok()?.stdout_text();
    let said = whole["guest_kernel"].as_str().context("guest_kernel")?;
    ensure!(said.contains(kernel.trim()), "inspect: the guest's kernel is {said}, its own {kernel}");
    ensure!(whole["boot_times"]["configure_us"].as_u64() > Some(0), "inspect: {}", whole["boot_times"]);

    let labels =
        format!("{{containerd_namespace=\"default\",pod_name=\"\",pod_namespace=\"\",sandbox=\"{id}\"}}");
    ensure!(value(&format!("krun_sandbox_memory_bytes{labels}"))? == f64::from(1 << 30), "its memory");
    ensure!(value("krun_sandboxes{state=\"running\"}")? == 1.0, "the number of sandboxes");
    println!(
        "tried: ps, inspect and metrics: a VM of {} MiB, {} resident",
        one["memory_mib"],
        resident >> 20
    );
    Ok(())
}

/// Nothing is asked of a shim or a vmm: one that stands still is shown all the same.
fn still(id: &str) -> Result<()> {
    let stopped = [procs::shim_of(id)?.context("a shim")?.pid, procs::vmm_of(id)?.pid].map(Pid::from_raw);
    stopped.iter().try_for_each(|pid| kill(*pid, Signal::SIGSTOP))?;
    let shown = inspect(id).and_then(|_| page());
    stopped.iter().try_for_each(|pid| kill(*pid, Signal::SIGCONT))?;
    shown.map(drop).context("a shim and a vmm that stand still")
}

/// The NIC's figures are the guest's.
fn traffic(ctx: &Ctx, id: &str) -> Result<()> {
    let sent = |key: &str| inspect(id)?["usage"]["network"][key].as_u64().context("no network");
    let (before_out, before_in) = (sent("sent_bytes")?, sent("received_bytes")?);
    let ping = ["task", "exec", "--exec-id", "ping", id, "ping", "-q", "-c", "3", "-s", "1000", veth::BOX[0]];
    ctx.ctr(&ping).run()?.ok()?;
    let (out, back) = (sent("sent_bytes")? - before_out, sent("received_bytes")? - before_in);
    ensure!(
        (3000..6000).contains(&out) && (3000..6000).contains(&back),
        "3 pings of 1,000 bytes: {out} out, {back} in"
    );
    println!("tried: 3 pings of 1,000 bytes: {out} bytes sent, {back} received");
    Ok(())
}

/// Ends, a failure and boots are counted once each.
fn counted(ctx: &Ctx, id: &str) -> Result<()> {
    // Nobody reaps it meanwhile.
    let (shim, vmm) = (procs::shim_of(id)?.context("a shim")?.pid, procs::vmm_of(id)?.pid);
    kill(Pid::from_raw(shim), Signal::SIGSTOP)?;
    kill(Pid::from_raw(vmm), Signal::SIGKILL)?;
    let ended =
        until_true("a vmm that was killed to be gone", PATIENCE, || Ok(inspect(id)?["state"] == "ended"));
    kill(Pid::from_raw(shim), Signal::SIGCONT)?;
    ended?;
    ctx.wait_for_status(id, "STOPPED")?;
    ctx.remove(id)?;
    ctx.sh(&[], &ctx.id("success"), "true").run()?.ok()?;
    ctx.sh(&[], &ctx.id("error"), "exit 3").run()?.expect_status(3)?;
    let small = ["--memory-limit", "33554432"];
    ctx.sh(&small, &ctx.id("memory"), "exec tail /dev/zero").run()?.expect_status(137)?;
    // What comes after this one is on the page when this is.
    ctx.sh(&[], &ctx.id("last"), "true").run()?.ok()?;
    let successes = "krun_container_exits_total{reason=\"success\"}";
    until_true(successes, PATIENCE, || Ok(value(successes)? >= 2.0)).with_context(page_text)?;
    let boots: f64 = ["cold", "warm"]
        .map(|boot| value(&format!("krun_boot_duration_seconds_count{{boot=\"{boot}\",phase=\"total\"}}")))
        .into_iter()
        .sum::<Result<f64>>()?;
    ensure!(boots == 5.0, "{boots} boots were counted");
    for (series, wanted) in [
        (successes, 2.0),
        ("krun_vm_failures_total{reason=\"died\"}", 1.0),
        ("krun_vm_failures_total{reason=\"protocol\"}", 0.0),
        ("krun_vm_failures_total{reason=\"connection\"}", 0.0),
        ("krun_vm_failures_total{reason=\"unresponsive\"}", 0.0),
        ("krun_container_exits_total{reason=\"error\"}", 1.0),
        // That of the vmm.
        ("krun_container_exits_total{reason=\"signal\"}", 1.0),
        ("krun_container_exits_total{reason=\"out_of_memory\"}", 1.0),
        ("krun_sandboxes{state=\"running\"}", 0.0),
    ] {
        let found = value(series)?;
        ensure!(found == wanted, "{series} is {found}, not {wanted}");
    }
    ensure!(value("krun_oom_events_total")? > 0.0, "no OOM event was counted");
    println!("tried: a vmm killed, three ends, one for memory: each is counted once");
    Ok(())
}

fn page_text() -> String {
    page().unwrap_or_default()
}

fn sandboxes() -> Result<Vec<Value>> {
    let text = Cmd::new(&["krunctl", "ps", "--format", "json"]).run()?.ok()?.stdout_text();
    serde_json::from_str(&text).with_context(|| format!("what is this: {text}"))
}

fn inspect(id: &str) -> Result<Value> {
    let text = Cmd::new(&["krunctl", "inspect", id]).run()?.ok()?.stdout_text();
    serde_json::from_str(&text).with_context(|| format!("what is this: {text}"))
}

/// The page of figures.
fn page() -> Result<String> {
    let mut client = TcpStream::connect(LISTEN).context("connect to krunctl metrics")?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(b"GET /metrics HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "krunctl metrics answers {answer}");
    Ok(answer)
}

/// The value of one series.
fn value(series: &str) -> Result<f64> {
    let page = page()?;
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(series))
        .with_context(|| format!("no {series} in {page}"))?;
    line.trim().parse().with_context(|| format!("{series} is {line}"))
}
