//! Landlock, where the kernel has it: once more, and by another part of the kernel, the vmm reaches only its share and its
//! devices, whatever its root contains. It also has no abstract unix sockets, which no root keeps out, on kernels from 6.12 on.

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use vm_launcher::{Network, probe::DEV_KVM};

use super::{SHARE, root::DEV_TUN};

/// The newest version of Landlock that this uses; older kernels enforce what they know of it.
const NEWEST: ABI = ABI::V6;

/// The first version that lets files move between directories. Source: Documentation/userspace-api/landlock.rst.
const OLDEST: i64 = 2;

/// `LANDLOCK_CREATE_RULESET_VERSION` of linux/landlock.h.
const ASK_VERSION: u32 = 1;

/// This process.
const PROC_SELF: &str = "/proc/self";

/// Restricts this thread and those that it will make. Says whether the kernel could.
pub fn restrict(network: &Network) -> Result<bool> {
    if version() < OLDEST {
        return Ok(false);
    }
    let devices = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    // No programs, and no requests to devices: nobody may open a device node of the share anyway.
    let files = AccessFs::from_all(NEWEST) & !(AccessFs::Execute | AccessFs::IoctlDev);
    rules = allow(rules, SHARE, files)?;
    rules = allow(rules, PROC_SELF, AccessFs::ReadFile | AccessFs::ReadDir)?;
    rules = allow(rules, DEV_KVM, devices)?;
    if let Network::Tap(_) = network {
        rules = allow(rules, DEV_TUN, devices)?;
    }
    Ok(rules.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

fn allow(rules: RulesetCreated, path: &str, access: BitFlags<AccessFs>) -> Result<RulesetCreated> {
    let file = PathFd::new(path).with_context(|| format!("opening {path}"))?;
    rules.add_rule(PathBeneath::new(file, access)).with_context(|| format!("allowing {path}"))
}

/// The kernel's version of Landlock, or less than 1 where it has none.
fn version() -> i64 {
    // SAFETY: with this flag the call takes no structure, and only answers.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, ASK_VERSION) }
}
