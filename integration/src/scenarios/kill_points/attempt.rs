//! One case from its beginning to the proof that nothing is left.

use super::events::Events;
use super::life::{self, Life, Living, STATUS, server_of, signal};
use super::{Case, Hit, PROMPT, Victim, Want};
use crate::command::{Cmd, Running};
use crate::ctx::{BUSYBOX, Ctx};
use crate::failpoints::{Held, Points};
use crate::leaks::{self, Snapshot};
use crate::veth;
use crate::wait::{until, until_true};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

/// What an undisturbed container's status is.
const FINE: i32 = 3;

/// Until the point is reached: a boot, in an emulated, busy box.
const ARRIVAL: Duration = Duration::from_secs(120);

/// Where a client makes the streams of its container, as differences begin. One that is killed leaves them, and so does
/// `ctr` when the shim has gone: it removes them when the task's state says that it has ended.
const CLIENTS: &str = "left behind: file /run/containerd/fifo/";
const FIFOS: &str = "/run/containerd/fifo";

/// For what ends a moment after its container.
const GRACE: Duration = Duration::from_secs(30);

/// Tries a case, and says what it came to.
pub fn attempt(ctx: &Ctx, points: &Points, case: &Case) -> Result<String> {
    let (before, network) = (Snapshot::take()?, leaks::network()?);
    let hits_containerd =
        case.hits.iter().any(|(victim, hit)| (*victim, *hit) == (Victim::Containerd, Hit::Kill));
    let events = if hits_containerd { None } else { Some(Events::listen(ctx)?) };
    let mut living = Living::begin(ctx, case.life)?;
    let point = points.arm(case.at);
    let outcome = (|| {
        let mut running = living.go(ctx)?;
        let mut over = None;
        let held = until(&format!("somebody at {}", case.at), ARRIVAL, || {
            let held = point.held()?;
            if running.is_over()? {
                // What comes after it comes soon.
                let since = *over.get_or_insert_with(Instant::now);
                ensure!(held.is_some() || since.elapsed() < GRACE, "the command ended before {}", case.at);
            }
            Ok(held)
        });
        let held = match held {
            Ok(held) => held,
            Err(error) => bail!("{error:#}: {}", running.finish()?),
        };
        hit(ctx, case, &living, held, running)
    })();
    points.disarm();
    // Also after a failure: the next case begins with nothing.
    let ended = living.end(ctx);
    let (status, took) = outcome?;
    ended.context("remove the container")?;
    let fails_to_be_created = case.at == "create.told" && matches!(case.want, Want::Failure);
    let told = events.as_ref().map(|events| events.settled(&living.id, fails_to_be_created)).transpose()?;
    let must_be_told = case.told.is_some() || (matches!(case.want, Want::Is(_)) && case.life != Life::Exec);
    if let Some(told) = &told {
        ensure!(told.created > 0 || !must_be_told, "nothing was told");
    }
    if let Some(told) = &told
        && told.created > 0
        && !fails_to_be_created
    {
        let first = told.exits.first().copied().context("no exit was told")?;
        match (case.told, case.want) {
            (Some(status), _) => ensure!(first == u64::from(status), "told {told:?}, not {status}"),
            (None, Want::Is(status)) if case.life != Life::Exec => {
                ensure!(first == status as u64, "told {told:?}, not {status}");
            }
            (None, Want::Failure) => ensure!(![0, STATUS as u64].contains(&first), "told {told:?}"),
            _ => ensure!(first != 0, "told {told:?}"),
        }
    }
    drop(events);
    if case.life == Life::Tap {
        let links = veth::ip("-n krun-scenario -brief link")?;
        ensure!(links.lines().count() == 2, "in the network namespace are {links}");
    }
    if case.life == Life::Spare {
        let links = veth::ip(&format!("-n {} -brief link", veth::EMPTY))?;
        ensure!(links.lines().count() == 1, "in the empty network namespace are {links}");
    }
    clean(&before, &network)?;
    let told = told.map_or_else(|| "unheard".to_owned(), |told| format!("told {:?}", told.exits));
    Ok(format!("status {status} {:.1} s after, {told}", took.as_secs_f64()))
}

/// Runs a container undisturbed, with the id that all cases have.
pub fn undisturbed(ctx: &Ctx) -> Result<()> {
    let id = ctx.id(life::SUFFIX);
    let output = ctx.run(&["--rm"], BUSYBOX, &id, &["sh", "-c", &format!("exit {FINE}")]).run()?;
    output.expect_status(FINE).map(drop).context("once more with the same id")
}

/// Hits, lets the point be passed, and waits for the command under way; its status, and how long that took.
fn hit(ctx: &Ctx, case: &Case, living: &Living, held: Held, mut running: Running) -> Result<(i32, Duration)> {
    let began = Instant::now();
    let mut paused = Vec::new();
    for (victim, hit) in case.hits {
        match (victim, hit) {
            (Victim::Client, _) => running.signal(SIGKILL)?,
            (Victim::Containerd, Hit::Kill) => Cmd::new(&["containerd-ctl", "kill"]).run()?.ok().map(drop)?,
            (_, Hit::Kill) => signal(&living.victim(*victim, held.pid)?, SIGKILL)?,
            (_, Hit::Stop | Hit::Pause | Hit::Outlast) => {
                let process = living.victim(*victim, held.pid)?;
                signal(&process, SIGSTOP)?;
                if *victim != Victim::Containerd {
                    // Whoever stands still holds up its own container, and nobody's look at the others.
                    ctx.ctr(&["task", "ls"]).timeout(PROMPT).run()?.ok()?;
                }
                match hit {
                    Hit::Pause => paused.push(process),
                    Hit::Outlast => until_true("containerd to end it", Duration::from_secs(PROMPT), || {
                        Ok(!process.is_alive())
                    })?,
                    _ => {}
                }
            }
        }
    }
    for process in &paused {
        signal(process, SIGCONT)?;
    }
    drop(held);
    let hits_containerd = case.hits.iter().any(|(victim, _)| *victim == Victim::Containerd);
    if hits_containerd && paused.is_empty() {
        Cmd::new(&["containerd-ctl", "start"]).run()?.ok()?;
    }
    if let Some(pod) = &living.pod
        && server_of(pod)?.is_some()
        && !case.hits.iter().any(|(victim, _)| matches!(victim, Victim::Shim | Victim::Vmm))
    {
        ctx.ctr(&["task", "exec", "--exec-id", "neighbour", pod, "true"])
            .run()?
            .ok()
            .context("its neighbour")?;
    }
    // Nobody else ends one that lives.
    if case.life == Life::Long && (!paused.is_empty() || hits_containerd) {
        ctx.wait_for_status(&living.id, "RUNNING")?;
        ctx.kill(&living.id, "SIGKILL")?.ok()?;
    }
    running.allow(Duration::from_secs(case.within));
    let output = running.finish()?;
    let took = began.elapsed();
    match case.want {
        Want::Is(status) => ensure!(output.status == status, "not status {status}: {output}"),
        Want::Failure => ensure!(![0, STATUS].contains(&output.status), "this was to fail: {output}"),
        Want::Any => {}
    }
    Ok((output.status, took))
}

/// Waits until the box is as it was before, but for a client's streams: these are removed.
fn clean(before: &Snapshot, network: &BTreeSet<String>) -> Result<()> {
    let mut left = Vec::new();
    let cleaned = until_true("a clean box", GRACE, || {
        left = before.differences(&Snapshot::take()?);
        let now = leaks::network()?;
        left.extend(now.difference(network).map(|thing| format!("left behind: {thing}")));
        left.extend(network.difference(&now).map(|thing| format!("gone: {thing}")));
        for streams in left.extract_if(.., |thing| thing.starts_with(CLIENTS)) {
            remove_streams(&streams[CLIENTS.len()..])?;
        }
        Ok(left.is_empty())
    });
    match cleaned {
        Err(error) if left.is_empty() => Err(error),
        Err(_) => bail!("{}", left.join("; ")),
        Ok(()) => Ok(()),
    }
}

/// Removes streams that a client has left, which are in a directory of their own.
fn remove_streams(below: &str) -> Result<()> {
    let directory = below.split('/').next().context("a name")?;
    match fs::remove_dir_all(Path::new(FIFOS).join(directory)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("remove a client's streams"),
        _ => Ok(()),
    }
}
