//! The cases: where, who, how, and what must come of it.

use super::Hit::{Kill, Outlast, Pause, Stop};
use super::Victim::{Anchor, Client, Containerd, Here, Shim, Vmm};
use super::Want::{Any, Failure, Is};
use super::life::Life::{
    Block, Exec, Hooked, Joined, Logged, Long, Loose, Mapped, Member, Operator, Orphaned, OrphanedHooked,
    Short, Spare, Tap,
};
use super::life::STATUS;
use super::{BOOT, Case, Hits, PROMPT, case};

/// The shim dies.
const SHIM: Hits = &[(Shim, Kill)];
const VMM: Hits = &[(Vmm, Kill)];
const ANCHOR: Hits = &[(Anchor, Kill)];
const HERE: Hits = &[(Here, Kill)];
const DAEMON: Hits = &[(Containerd, Kill)];

/// The statuses of what was killed, and of what ended by itself.
const KILLED: u32 = 137;
const ENDED: u32 = STATUS as u32;

/// Seconds for the shim with points to give up a guest that stands still, when it boots and later. Source: `BOOT`, `CALL`,
/// `SIGN_OF_LIFE` and `GONE` of shim/src/sandbox/krun/vm.rs.
const NO_BOOT: u64 = 40 + PROMPT;
const NO_ANSWER: u64 = 8 + 5 + 10 + PROMPT;
/// For an anchor, a hook or a logger that stands still: 8 s, 6 s and 12 s, and a boot.
const NO_HELP: u64 = 12 + BOOT;

/// One of each kind.
pub const SAMPLE: &[Case] =
    &[case("create.cgroup", SHIM, Short, Failure), case("run.told", SHIM, Long, Failure).told(KILLED)];

pub const CREATE: &[Case] = &[
    case("start.bound", HERE, Short, Failure),
    case("start.spawned", HERE, Short, Failure),
    case("start.noted", HERE, Short, Failure),
    case("start.bound", &[(Here, Stop), (Client, Kill)], Short, Failure),
    case("server.serving", SHIM, Short, Failure),
    case("create.planned", SHIM, Short, Failure),
    case("create.stdio", SHIM, Short, Failure),
    case("create.cgroup", &[(Client, Kill)], Short, Failure),
    case("create.layers", SHIM, Mapped, Failure),
    case("create.upper", SHIM, Block, Failure),
    case("create.rootfs", SHIM, Short, Failure),
    case("create.anchor", SHIM, Short, Failure),
    case("create.anchor", ANCHOR, Short, Failure),
    case("create.limited", SHIM, Short, Failure),
    case("create.limited", &[(Anchor, Stop), (Shim, Kill)], Loose, Failure),
    case("anchor.called", HERE, Short, Failure),
    case("anchor.called", &[(Here, Stop)], Short, Failure).within(NO_HELP),
    case("anchor.joined", &[(Here, Stop), (Shim, Kill)], Loose, Failure),
    case("hook.prestart", SHIM, Hooked, Failure),
    case("hook.create-runtime", SHIM, Hooked, Failure),
    case("hook.create-runtime", HERE, Hooked, Failure),
    case("hook.create-runtime", &[(Here, Stop)], Hooked, Failure).within(NO_HELP),
    case("hook.create-runtime", &[(Here, Stop), (Shim, Kill)], Hooked, Failure),
    case("create.state", SHIM, Short, Failure),
    case("create.share", SHIM, Short, Failure),
    case("create.taps", SHIM, Tap, Failure),
    case("create.taps", SHIM, Spare, Failure),
    case("create.vmm", SHIM, Spare, Failure),
    case("create.vmm", SHIM, Short, Failure),
    case("create.vmm", VMM, Short, Failure),
    case("create.vmm", &[(Vmm, Stop)], Short, Failure).within(NO_BOOT),
    case("create.vmm", &[(Vmm, Stop), (Shim, Kill)], Loose, Failure),
    case("create.shared", SHIM, Short, Failure),
    case("create.supervised", SHIM, Short, Failure),
    case("create.told", SHIM, Short, Failure),
    case("logger.begun", HERE, Logged, Is(STATUS)).within(BOOT),
    case("logger.begun", &[(Here, Stop)], Logged, Failure).within(NO_HELP),
];

pub const START: &[Case] = &[
    case("boot.hello", SHIM, Short, Failure),
    case("boot.hello", VMM, Short, Failure),
    case("boot.hello", &[(Vmm, Stop)], Short, Failure).within(NO_BOOT),
    case("boot.configured", SHIM, Short, Failure),
    case("guest.making", SHIM, Short, Failure),
    case("guest.making", VMM, Short, Failure),
    case("guest.making", &[(Vmm, Stop)], Short, Failure).within(NO_ANSWER),
    case("guest.making", SHIM, Block, Failure),
    case("guest.made", ANCHOR, Short, Failure),
    case("guest.made", &[(Vmm, Stop), (Shim, Kill)], Loose, Failure),
    case("run.joined", SHIM, Joined, Failure),
    case("run.joined", VMM, Joined, Failure),
    case("run.called", SHIM, Short, Failure),
    case("run.called", VMM, Short, Failure),
    case("run.called", &[(Vmm, Stop)], Short, Failure).within(NO_ANSWER),
    case("run.called", ANCHOR, Long, Failure),
    case("run.started", SHIM, Long, Failure).told(KILLED),
    case("hook.poststart", SHIM, Hooked, Failure).told(KILLED),
    case("hook.poststart", HERE, Hooked, Is(STATUS)),
    case("hook.poststart", &[(Here, Stop)], Hooked, Is(STATUS)).within(NO_HELP),
    case("run.told", VMM, Long, Is(137)),
    case("run.told", ANCHOR, Long, Is(137)),
    case("run.told", &[(Anchor, Stop), (Vmm, Stop), (Shim, Kill)], Loose, Failure).told(KILLED),
    case("run.told", &[(Shim, Stop), (Shim, Kill)], Long, Failure).told(KILLED),
    case("run.told", &[(Shim, Pause)], Long, Is(137)),
    case("run.told", &[(Client, Kill)], Long, Failure).told(KILLED),
    case("logger.ready", HERE, Logged, Is(STATUS)),
    case("logger.ready", &[(Here, Stop), (Shim, Kill)], Logged, Failure).told(KILLED),
    case("logger.ready", &[(Here, Stop)], Logged, Is(STATUS)).within(NO_HELP),
];

pub const EXEC: &[Case] = &[
    case("exec.stdio", SHIM, Exec, Failure).told(KILLED),
    case("exec.stdio", VMM, Exec, Failure).told(KILLED),
    case("exec.stdio", &[(Vmm, Stop)], Exec, Failure).told(KILLED).within(NO_ANSWER),
    case("exec.made", SHIM, Exec, Failure).told(KILLED),
    case("exec.made", ANCHOR, Exec, Any).told(KILLED),
    case("exec.told", SHIM, Exec, Failure).told(KILLED),
    case("exec.told", VMM, Exec, Any).told(KILLED),
    case("exec.told", &[(Shim, Pause)], Exec, Is(STATUS)).told(KILLED),
    case("exec.ended", SHIM, Exec, Failure).told(KILLED),
    case("exec.ended", VMM, Exec, Is(STATUS)).told(KILLED),
    case("operator.shared", SHIM, Operator, Failure).told(KILLED),
    case("operator.made", SHIM, Operator, Failure).told(KILLED),
    case("operator.made", VMM, Operator, Failure).told(KILLED),
    case("operator.made", &[(Vmm, Stop)], Operator, Failure).told(KILLED).within(NO_ANSWER),
    case("operator.ended", SHIM, Operator, Failure).told(KILLED),
    case("operator.ended", VMM, Operator, Any).told(KILLED),
];

pub const EXIT: &[Case] = &[
    case("exit.heard", SHIM, Short, Failure).told(KILLED),
    case("exit.heard", VMM, Short, Is(STATUS)),
    case("exit.heard", &[(Vmm, Stop)], Short, Is(STATUS)),
    case("exit.heard", ANCHOR, Short, Is(STATUS)),
    case("exit.heard", VMM, Block, Is(STATUS)),
    case("exit.set", SHIM, Short, Any),
    case("exit.set", VMM, Short, Is(STATUS)),
    case("exit.drained", SHIM, Short, Any),
    case("exit.drained", &[(Vmm, Stop)], Short, Is(STATUS)),
    case("exit.told", SHIM, Short, Any).told(ENDED),
    case("exit.told", &[(Shim, Pause)], Short, Is(STATUS)),
];

pub const DELETE: &[Case] = &[
    case("delete.finished", SHIM, Short, Any).told(ENDED),
    case("delete.finished", &[(Shim, Pause)], Short, Is(STATUS)),
    case("delete.vm-ended", SHIM, Short, Any).told(ENDED),
    case("delete.anchor-ended", SHIM, Short, Any).told(ENDED),
    case("delete.share", SHIM, Tap, Any).told(ENDED),
    case("delete.vm", SHIM, Tap, Any).told(ENDED),
    case("delete.rootfs", SHIM, Short, Any).told(ENDED),
    case("delete.cgroup", SHIM, Short, Any).told(ENDED),
    case("hook.poststop", SHIM, Hooked, Any).told(ENDED),
    case("hook.poststop", HERE, Hooked, Is(STATUS)),
    case("hook.poststop", &[(Here, Stop)], Hooked, Is(STATUS)).within(NO_HELP),
    case("delete.told", SHIM, Short, Any).told(ENDED),
    case("shutdown.called", SHIM, Short, Is(STATUS)),
    case("server.ending", SHIM, Short, Is(STATUS)),
    case("server.removed", SHIM, Short, Is(STATUS)),
];

/// containerd's clean-up after a shim that was killed is killed itself. containerd does not run it once more until it is
/// started anew.
pub const CLEANUP: &[Case] = &[
    case("cleanup.begun", &[(Here, Kill), (Containerd, Kill)], Orphaned, Failure),
    case("cleanup.shim-ended", &[(Here, Kill), (Containerd, Kill)], Orphaned, Failure),
    case("cleanup.unserved", &[(Here, Kill), (Containerd, Kill)], Orphaned, Failure),
    case("cleanup.cgroup", &[(Here, Kill), (Containerd, Kill)], Orphaned, Failure),
    case("cleanup.rootfs", &[(Here, Kill), (Containerd, Kill)], Orphaned, Failure),
    case("cleanup.hooks", &[(Here, Kill), (Containerd, Kill)], OrphanedHooked, Failure),
    case("cleanup.state", &[(Here, Kill), (Containerd, Kill)], OrphanedHooked, Failure),
    case("cleanup.done", &[(Here, Kill), (Containerd, Kill)], Orphaned, Failure),
    case("cleanup.unserved", &[(Here, Pause)], Orphaned, Failure).told(KILLED),
    case("cleanup.unserved", &[(Here, Outlast), (Containerd, Kill)], Orphaned, Failure),
    case("cleanup.cgroup", DAEMON, Orphaned, Failure),
];

pub const CONTAINERD: &[Case] = &[
    case("start.noted", DAEMON, Short, Failure),
    case("create.cgroup", DAEMON, Short, Failure),
    case("hook.create-runtime", DAEMON, Hooked, Failure),
    case("create.told", DAEMON, Short, Failure),
    case("guest.making", DAEMON, Short, Failure),
    case("run.told", DAEMON, Long, Failure),
    case("exit.told", DAEMON, Short, Failure),
    case("delete.vm-ended", DAEMON, Short, Failure),
    case("shutdown.called", DAEMON, Short, Failure),
    case("create.cgroup", &[(Containerd, Pause)], Short, Is(STATUS)).within(BOOT),
    case("exit.told", &[(Containerd, Pause)], Short, Is(STATUS)),
];

pub const POD: &[Case] = &[
    case("create.cgroup", SHIM, Member, Failure),
    case("create.anchor", ANCHOR, Member, Failure),
    case("create.shared", SHIM, Member, Failure),
    case("guest.making", VMM, Member, Failure),
    case("guest.made", ANCHOR, Member, Failure),
    case("exit.told", SHIM, Member, Any).told(ENDED),
    case("delete.finished", SHIM, Member, Any).told(ENDED),
    case("delete.cgroup", SHIM, Member, Any).told(ENDED),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::failpoints;

    #[test]
    fn every_point_of_the_shim_has_a_case_and_every_case_a_point() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shim/src");
        if !source.exists() {
            // In a box. `hack/check` runs it where the source is.
            return;
        }
        let shims = failpoints::named_in(&source);
        let all = [SAMPLE, CREATE, START, EXEC, EXIT, DELETE, CLEANUP, CONTAINERD, POD];
        let cases: BTreeSet<_> = all.iter().flat_map(|cases| cases.iter()).map(|case| case.at).collect();
        // Hooks and loggers are ours.
        let cases = cases.iter().filter(|at| !at.starts_with("hook.") && !at.starts_with("logger."));
        assert_eq!(shims, cases.map(|at| (*at).to_owned()).collect());
    }
}
