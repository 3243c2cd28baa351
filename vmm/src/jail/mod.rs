//! The jail of a vmm: it limits what a guest can do that has taken over its vmm.
//!
//! A process with one thread enters it once, before libkrun starts, so that it holds for every later thread. Nothing in
//! it can be undone from inside.

mod apparmor;
mod capabilities;
mod idle;
mod landlock;
mod limits;
pub mod network;
mod one_vm;
mod root;
mod seccomp;
mod user;

use anyhow::{Context, Result};
use nix::sys::prctl;
use vm_launcher::{Network, VmConfig};

use crate::disks::Opened;

/// The guest's root, in the jail.
pub const SHARE: &str = "/share";

/// The directory of the socket that the guest connects to, in the jail.
pub const SOCKETS: &str = "/sock";

/// Closes the jail around this process. libkrun will open `files`, and write to some. `on_host` says that the process is in the
/// host's network namespace.
pub fn enter(config: &VmConfig, files: &[Opened], on_host: bool) -> Result<()> {
    enter_unfiltered(config, files, on_host)?;
    filter(config, files)
}

/// All of the jail but its last part, the [`filter`].
pub fn enter_unfiltered(config: &VmConfig, files: &[Opened], on_host: bool) -> Result<()> {
    let proc = user::Proc::open()?;
    root::change(config).context("changing the root")?;
    limits::set(config.memory_mib).context("setting limits")?;
    // On the host's network, the guest's servers on ports below 1024 need CAP_NET_BIND_SERVICE, which holds there only for
    // processes of the host's user namespace.
    let binds = on_host && config.network == Network::Tsi;
    if !binds {
        user::enter(&proc).context("entering a user namespace")?;
    }
    capabilities::drop(binds).context("dropping capabilities")?;
    user::become_own(&proc).context("changing the real uid")?;
    limits::set_users().context("setting limits of the user")?;
    if let Some(profile) = &config.apparmor_profile {
        // All that the host's kernel must allow a vmm in order to get here needs no place in the profile.
        apparmor::enter(&proc, profile).with_context(|| format!("apparmor profile {profile}"))?;
    }
    // Not before: under no_new_privs a vmm whose shim is confined could not change to a profile that is not part of the shim's.
    prctl::set_no_new_privs().context("PR_SET_NO_NEW_PRIVS")?;
    drop(proc);
    if config.given_away {
        // Not before: until here it takes locks of the kernel's that others wait for.
        idle::become_idle().context("leaving the CPU to other processes")?;
    }
    landlock::restrict(&config.network, files).context("restricting files with Landlock")?;
    Ok(())
}

/// Allows this process, for good, only the system calls of a vmm.
pub fn filter(config: &VmConfig, files: &[Opened]) -> Result<()> {
    let devices = files.iter().any(|file| file.is_device);
    seccomp::install(&config.network, config.debug_console.is_some(), devices)
        .context("installing the system call filter")
}
