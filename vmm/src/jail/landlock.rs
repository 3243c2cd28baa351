//! Landlock, where the kernel has it: a second barrier, independent of the root. The vmm reaches only its share and its
//! devices, and executes nothing. From Linux 6.12 on it also cannot connect to abstract unix sockets of other processes in
//! its network namespace, which no root keeps out.

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use linux::landlock::available;
use vm_launcher::{Network, probe::DEV_KVM};

use super::{SHARE, root::DEV_TUN};
use crate::disks::Opened;

/// The newest version of Landlock that this uses; older kernels enforce what they know of it.
const NEWEST: ABI = ABI::V6;

/// This process.
const PROC_SELF: &str = "/proc/self";

/// Restricts this thread and those that it will make. They may still open `more` files. Says whether the kernel can do that.
pub fn restrict(network: &Network, more: &[Opened]) -> Result<bool> {
    let devices = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut rules =
        vec![(SHARE, files()), (PROC_SELF, AccessFs::ReadFile | AccessFs::ReadDir), (DEV_KVM, devices)];
    if let Network::Tap(_) = network {
        rules.push((DEV_TUN, devices));
    }
    for Opened { path, is_written, is_device } in more {
        let mut access = BitFlags::from(AccessFs::ReadFile);
        access.extend(is_written.then_some(AccessFs::WriteFile));
        access.extend(is_device.then_some(AccessFs::IoctlDev));
        rules.push((path, access));
    }
    enforce(&rules)
}

/// What virtiofs does with files. No programs, and no requests to devices: nobody may open a device node of the share.
fn files() -> BitFlags<AccessFs> {
    AccessFs::from_all(NEWEST) & !(AccessFs::Execute | AccessFs::IoctlDev)
}

/// Allows what is listed, below each path, and nothing else.
fn enforce(rules: &[(&str, BitFlags<AccessFs>)]) -> Result<bool> {
    if !available() {
        return Ok(false);
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for &(path, access) in rules {
        let file = PathFd::new(path).with_context(|| format!("opening {path}"))?;
        let rule = PathBeneath::new(file, access);
        ruleset = ruleset.add_rule(rule).with_context(|| format!("allowing {path}"))?;
    }
    Ok(ruleset.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::ErrorKind, thread};

    use super::*;

    #[test]
    fn a_thread_reaches_only_what_is_allowed() {
        if !available() {
            eprintln!("skipped: this kernel has no Landlock");
            return;
        }
        let [inside, outside] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        fs::write(outside.path().join("file"), "").unwrap();
        fs::create_dir(inside.path().join("other")).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                assert!(enforce(&[(inside.path().to_str().unwrap(), files())]).unwrap());
                let refused = |result: std::io::Result<()>| result.unwrap_err().kind();
                let (from, to) = (inside.path().join("file"), inside.path().join("other/file"));
                fs::write(&from, "text").unwrap();
                fs::rename(&from, &to).unwrap();
                assert_eq!(fs::read_to_string(&to).unwrap(), "text");
                let foreign = outside.path().join("file");
                assert_eq!(refused(fs::read(&foreign).map(drop)), ErrorKind::PermissionDenied);
                assert_eq!(refused(fs::remove_file(&foreign)), ErrorKind::PermissionDenied);
                assert_eq!(refused(fs::write(outside.path().join("new"), "")), ErrorKind::PermissionDenied);
            });
        });
    }
}
