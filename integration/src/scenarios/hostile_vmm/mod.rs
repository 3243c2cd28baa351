//! A program of ours in the vmm's place, as if the guest had taken the vmm over: launched by the shim, with a vmm's cgroup,
//! namespaces and descriptors, and jailed by krun-vmm's own code. Each try is printed with what it got, and must get what
//! [`expected`] says, no less and no more.
//!
//! The tries are those of `integration/hostile-vmm`, each in a process of its own.

mod expected;
mod launch;
mod limits;

use crate::containerd_log;
use crate::ctx::Ctx;
use crate::scenario::{Outcome, Scenario};
use crate::veth;
use anyhow::{Result, ensure};
use expected::Mode;
use launch::{Launch, alone};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// So many tries are made by one launch. Source: `PART` of integration/hostile-vmm/src/attempt.rs.
const PART: usize = 64;

/// Stands for a launch's id in flags.
const SANDBOX: &str = "@id@";

const WHY: &str = "runc has no vmm";

pub const SCENARIOS: &[Scenario] = &[
    scenario("hostile-vmm", |ctx| tries(ctx, Mode::Lone, &[]), 600),
    scenario("hostile-vmm-tap", tap, 600).long(),
    scenario("hostile-vmm-pod", pod, 600).long(),
    scenario("hostile-vmm-tsi", tsi, 600).long(),
    scenario("hostile-vmm-none", none, 600).long(),
    scenario("hostile-vmm-host-network", |ctx| tries(ctx, Mode::HostNetwork, &["--net-host"]), 600).long(),
    scenario("hostile-vmm-disk", disk, 600).long(),
    scenario("hostile-vmm-itself", itself, 400).long(),
    scenario("hostile-vmm-quotas", limits::quotas, 400).long(),
    scenario("hostile-vmm-memory", limits::memory, 300).long(),
    scenario("hostile-vmm-limits", limits::spinning, 900).long(),
];

const fn scenario(name: &'static str, run: fn(&Ctx) -> Result<Outcome>, seconds: u64) -> Scenario {
    Scenario::new(name, run).krun_only(WHY).timeout(seconds)
}

fn tap(ctx: &Ctx) -> Result<Outcome> {
    veth::make()?;
    tries(ctx, Mode::Tap, &["--with-ns", &format!("network:{}", veth::PATH)])
}

fn pod(ctx: &Ctx) -> Result<Outcome> {
    let flags = launch::sandbox(SANDBOX);
    tries(ctx, Mode::Pod, &flags.each_ref().map(String::as_str))
}

fn tsi(ctx: &Ctx) -> Result<Outcome> {
    tries(ctx, Mode::Tsi, &["--annotation", "io.containerd.krun.network=tsi"])
}

fn none(ctx: &Ctx) -> Result<Outcome> {
    tries(ctx, Mode::NoNetwork, &["--annotation", "io.containerd.krun.network=none"])
}

fn disk(ctx: &Ctx) -> Result<Outcome> {
    tries(ctx, Mode::Disk, &["--annotation", "io.containerd.krun.rootfs=block"])
}

/// Makes all tries in a container of this kind, and compares what they got.
fn tries(ctx: &Ctx, mode: Mode, flags: &[&str]) -> Result<Outcome> {
    // What the vmm must not reach: they are in the box's network namespace.
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name("krun-scenario-abstract")?)?;
    let _local = TcpListener::bind("127.0.0.1:7003")?;
    let wanted = expected::of(mode);
    let mut lines = Vec::new();
    for part in 0..wanted.len().div_ceil(PART) {
        let id = format!("{part}");
        let launch = Launch::new(ctx, &id, &format!("tries:{part}"))?;
        let flags: Vec<String> = flags.iter().map(|flag| flag.replace(SANDBOX, &launch.id)).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        // The vmm ends with its tries; no guest ever boots.
        launch.run(ctx, &flags).spawn()?.finish()?.refused(&["its part was tried"])?;
        lines.extend(launch.reports()?);
    }
    let got = lines.iter().flat_map(|line| line.split(" | ")).filter_map(|one| one.split_once(": "));
    let got: BTreeMap<&str, &str> = got.collect();
    let mut failures = Vec::new();
    for (name, wanted) in &wanted {
        let what = got.get(name.as_str()).copied().unwrap_or("nothing: it was not made");
        let as_wanted = wanted.split(" or ").any(|wanted| wanted == what);
        println!("tried {name:<44} got {what}");
        if !as_wanted {
            failures.push(format!("{name}: {what}, not {wanted}"));
        }
    }
    let unknown: Vec<_> = got.keys().filter(|name| !wanted.contains_key(**name)).collect();
    ensure!(unknown.is_empty(), "tries without an expectation: {unknown:?}");
    ensure!(failures.is_empty(), "{} of {} tries: {}", failures.len(), got.len(), failures.join("\n"));
    println!("tried: {} things, each of which got what it must", got.len());
    Ok(Outcome::Passed)
}

/// The process that the shim launched makes tries itself: what it is, is what the others are; and the shim tells which call
/// killed it.
fn itself(ctx: &Ctx) -> Result<Outcome> {
    for (name, wanted) in expected::ITSELF {
        let got = alone(ctx, name, "it was tried")?;
        println!("tried {name:<44} got {got}");
        ensure!(got == *wanted, "{name}: {got}, not {wanted}");
    }
    for (name, call) in [
        ("ptrace", "ptrace, number 101"),
        ("socket VSOCK", "socket, number 41"),
        ("mount", "mount, number 165"),
    ] {
        let mark = containerd_log::mark();
        let reason = format!("killed for a system call that no vmm makes ({call})");
        alone(ctx, name, &reason)?;
        ensure!(mark.line_with(&[&reason])?.is_some(), "{name}: the log does not name the call");
        println!("tried {name:<44} got {reason}");
    }
    Ok(Outcome::Passed)
}
