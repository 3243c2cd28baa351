//! Any process dies or stands still, at any moment: at named points of a container's life the shim waits
//! (`shim/src/failpoint.rs`), and one process or another is killed or stopped there.
//!
//! After each case the command that was under way has ended in time and with the right status, the task's exit was told and
//! nothing is left on the host. All cases have the same id: the next begins where the last one ended, and after the last one
//! a container runs undisturbed.

mod attempt;
mod cases;
mod events;
mod life;

use crate::ctx::{Ctx, Runtime};
use crate::failpoints::Points;
use crate::scenario::{Outcome, Scenario};
use crate::{undo, veth};
use anyhow::{Context, Result};
use life::Life;
use std::fs;
use std::path::Path;

const WHY: &str = "runc's shim has no such points";

/// The shim that has the points, and containerd's name for it.
const SHIM: &str = "/usr/local/bin/containerd-shim-krunfp-v2";
const RUNTIME: &str = "io.containerd.krunfp.v2";

/// A variable with a part of a case's title: only such cases are tried.
const ONLY: &str = "KRUN_KILL_POINT";

/// A cable of its own for each container with CNI, which goes with its network namespace.
const CNI: &str = r#"{"cniVersion": "1.0.0", "name": "krun-kill-points", "plugins": [{"type": "ptp",
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.79.0.0/24"}]]}}]}"#;
const CNI_FILE: &str = "/etc/cni/net.d/10-krun-kill-points.conflist";

pub const SCENARIOS: &[Scenario] = &[
    scenario("kill-points-sample", |ctx| all(ctx, cases::SAMPLE), 300),
    scenario("kill-points-create", |ctx| all(ctx, cases::CREATE), 1500).long(),
    scenario("kill-points-start", |ctx| all(ctx, cases::START), 1500).long(),
    scenario("kill-points-exec", |ctx| all(ctx, cases::EXEC), 900).long(),
    scenario("kill-points-exit", |ctx| all(ctx, cases::EXIT), 900).long(),
    scenario("kill-points-delete", |ctx| all(ctx, cases::DELETE), 1200).long(),
    scenario("kill-points-cleanup", |ctx| all(ctx, cases::CLEANUP), 1200).long(),
    scenario("kill-points-containerd", |ctx| all(ctx, cases::CONTAINERD), 1200).long(),
    scenario("kill-points-pod", |ctx| all(ctx, cases::POD), 900).long(),
];

const fn scenario(name: &'static str, run: fn(&Ctx) -> Result<Outcome>, seconds: u64) -> Scenario {
    Scenario::new(name, run).krun_only(WHY).timeout(seconds)
}

/// Who is hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    /// The server of the sandbox.
    Shim,
    Vmm,
    Anchor,
    /// Who waits at the point and is none of these: containerd's `start` or `delete`, an anchor that is not known yet, a hook,
    /// a logger.
    Here,
    /// The client, `ctr`.
    Client,
    Containerd,
}

/// How.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hit {
    /// SIGKILL. containerd is started again.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGSTOP, and SIGCONT once it is seen that containerd answers others.
    Pause,
    /// SIGSTOP, until containerd has ended it.
    Outlast,
}

/// The status of the command that was under way.
#[derive(Clone, Copy)]
enum Want {
    Is(i32),
    /// Anything but success.
    Failure,
    /// Whatever it is, within the time.
    Any,
}

/// Who is hit, and how, one after the other.
type Hits = &'static [(Victim, Hit)];

/// One case.
struct Case {
    /// The point.
    at: &'static str,
    hits: Hits,
    /// What leads to the point.
    life: Life,
    want: Want,
    /// The status of the first exit event, where it is not what is wanted of the command.
    told: Option<u32>,
    /// Seconds from the hit within which the command ends.
    within: u64,
}

/// Seconds for what waits for nothing, in an emulated, busy box, and for a VM's boot there: only what hangs is to be found.
const PROMPT: u64 = 60;
const BOOT: u64 = 120;

impl Case {
    const fn told(mut self, status: u32) -> Case {
        self.told = Some(status);
        self
    }

    const fn within(mut self, seconds: u64) -> Case {
        self.within = seconds;
        self
    }
}

const fn case(at: &'static str, hits: Hits, life: Life, want: Want) -> Case {
    Case { at, hits, life, want, told: None, within: PROMPT }
}

/// Tries all, and says what each came to, also when one failed.
fn all(ctx: &Ctx, cases: &[Case]) -> Result<Outcome> {
    anyhow::ensure!(Path::new(SHIM).exists(), "there is no {SHIM}: `make build` makes it");
    assert_eq!(ctx.runtime, Runtime::Krun, "the runner looks at `krun_only`");
    let points = Points::listen()?;
    if cases.iter().any(|case| case.life == Life::Tap) {
        veth::make()?;
    }
    if cases.iter().any(|case| case.life == Life::Spare) {
        veth::make_empty()?;
    }
    if cases.iter().any(|case| case.life == Life::Joined) {
        undo::remember(&["sh", "-c", &format!("rm -rf {CNI_FILE} /var/lib/cni/networks/krun-kill-points")])?;
        fs::write(CNI_FILE, CNI).context("write a CNI configuration")?;
    }
    let only = std::env::var(ONLY).unwrap_or_default();
    let mut failures = Vec::new();
    for case in cases {
        let hits: Vec<_> = case.hits.iter().map(|(victim, hit)| format!("{hit:?} {victim:?}")).collect();
        let title = format!("{} of {:?}: {}", case.at, case.life, hits.join(", "));
        if !title.contains(&only) {
            continue;
        }
        match attempt::attempt(ctx, &points, case) {
            Ok(got) => println!("tried: {title}: {got}"),
            Err(error) => {
                println!("tried: {title}: NOT AS IT MUST: {error:#}");
                failures.push(format!("{title}: {error:#}"));
            }
        }
        points.disarm();
    }
    if let Err(error) = attempt::undisturbed(ctx) {
        failures.push(format!("{error:#}"));
    }
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(Outcome::Passed)
}
