//! The AppArmor profile that the spec names: the vmm does the container's work on the host, so it gets the container's
//! profile.

use std::{fs::File, io::Write};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;

use super::user::Proc;

/// This process's profile; the second where the first, which came with Linux 5.8, is absent. Source: apparmor(7).
const CURRENT: [&str; 2] = ["attr/apparmor/current", "attr/current"];

/// Maximum length of a write to them; the kernel would leave the rest out. Source: `proc_pid_attr_write` of
/// fs/proc/base.c.
const MAX_WRITE: usize = 4096;

/// Puts this thread, and those that it will make, under a profile. It must be the process's only one.
pub fn enter(proc: &Proc, profile: &str) -> Result<()> {
    let command = command(profile)?;
    let mut current = open(proc).context("opening its AppArmor attribute")?;
    match current.write(&command).map_err(|error| (error.raw_os_error().map(Errno::from_raw), error)) {
        Ok(written) => {
            ensure!(written == command.len(), "the kernel took {written} of {} bytes", command.len());
            Ok(())
        }
        Err((Some(Errno::ENOENT), _)) => bail!("it is not loaded on this host"),
        Err((Some(Errno::EINVAL), _)) => bail!("AppArmor is not enabled on this host, or has no such name"),
        Err((_, error)) => Err(error.into()),
    }
}

fn open(proc: &Proc) -> nix::Result<File> {
    match proc.open_for_writing(CURRENT[0]) {
        Err(Errno::ENOENT) => proc.open_for_writing(CURRENT[1]),
        opened => opened,
    }
}

/// Source: `apparmor_setprocattr` of security/apparmor/lsm.c.
fn command(profile: &str) -> Result<Vec<u8>> {
    let command = format!("changeprofile {profile}").into_bytes();
    ensure!(command.len() <= MAX_WRITE, "its name is too long");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use vm_launcher::config::MAX_APPARMOR_PROFILE;

    use super::*;

    #[test]
    fn a_command_is_never_cut() {
        assert_eq!(command("nerdctl-default").unwrap(), b"changeprofile nerdctl-default");
        assert!(command(&"p".repeat(MAX_APPARMOR_PROFILE)).is_ok());
        assert!(command(&"p".repeat(MAX_APPARMOR_PROFILE + 1)).is_err());
    }
}
