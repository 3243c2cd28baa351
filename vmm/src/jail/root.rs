//! The vmm's file system: the share, /proc of its own, /dev/kvm, its socket directory and, with
//! network cards, /dev/net/tun; all else gone. What the caller mounts below the share later appears
//! here; nothing goes back.

use std::{ffi::CString, fs, os::unix::ffi::OsStrExt, path::Path};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::{chdir, pivot_root},
};
use vm_launcher::{Network, VmConfig, probe::DEV_KVM};

use super::{SHARE, SOCKETS};

/// The new root is put together on top of a directory that is on every host and that holds
/// nothing of what goes into it.
const STAGE: &str = "/proc";

/// The device of taps, as libkrun opens it.
const DEV_TUN: &str = "/dev/net/tun";

/// Enough for the few directories and the one empty file that it holds.
const ROOT_OPTIONS: &str = "mode=0755,size=64k,nr_inodes=32";

/// Only processes, and of them only those that we may see anyway.
const PROC_OPTIONS: &str = "hidepid=invisible,subset=pid";

/// Changes to the new root. The mount namespace must be ours alone.
pub fn change(config: &VmConfig) -> Result<()> {
    none("/", MsFlags::MS_SLAVE | MsFlags::MS_REC).context("making the host's mounts slaves")?;
    mount(
        Some("krun-vmm"),
        STAGE,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some(ROOT_OPTIONS),
    )
    .context("mounting the new root")?;

    directory(SHARE)?;
    bind(&config.share, SHARE, MsFlags::MS_REC)?;
    // Device nodes are the guest's business: nobody may open one here. Mounts that come later
    // have their own flags, which the caller sees to.
    restrict_all(&staged(SHARE))?;
    bind_again(SHARE, MsFlags::MS_NODEV)?;

    directory(SOCKETS)?;
    bind(&config.socket_dir, SOCKETS, MsFlags::empty())?;
    bind_again(SOCKETS, MsFlags::MS_NODEV)?;

    directory("/dev")?;
    device(DEV_KVM)?;
    if let Network::Tap(_) = config.network {
        // Without CAP_NET_ADMIN it opens only what belongs to the vmm's user in its namespace: its taps.
        directory("/dev/net")?;
        device(DEV_TUN)?;
    }

    directory("/proc")?;
    mount(
        Some("proc"),
        staged("/proc").as_str(),
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY,
        Some(PROC_OPTIONS),
    )
    .context("mounting /proc")?;

    bind_again("", MsFlags::MS_NODEV)?;
    chdir(STAGE).context("entering the new root")?;
    // Puts the old root on top of the new one (pivot_root(2), "pivot_root(".", ".")").
    pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("detaching the host's root")?;
    chdir("/").context("entering /")
}

fn staged(path: &str) -> String {
    format!("{STAGE}{path}")
}

fn directory(path: &str) -> Result<()> {
    fs::create_dir(staged(path)).with_context(|| format!("making a place for {path}"))
}

/// Binds a device, which may be opened here.
fn device(path: &str) -> Result<()> {
    fs::write(staged(path), "").with_context(|| format!("making a place for {path}"))?;
    bind(Path::new(path), path, MsFlags::empty())?;
    bind_again(path, MsFlags::empty())
}

/// A call of mount(2) that changes something about a mount that is there.
fn none(target: &str, flags: MsFlags) -> nix::Result<()> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
}

fn bind(source: &Path, target: &str, recursive: MsFlags) -> Result<()> {
    mount(Some(source), staged(target).as_str(), None::<&str>, MsFlags::MS_BIND | recursive, None::<&str>)
        .with_context(|| format!("binding {} to {target}", source.display()))
}

/// Makes a mount, and none below it, read-only and without programs.
fn bind_again(target: &str, more: MsFlags) -> Result<()> {
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NOEXEC
        | more;
    none(&staged(target), flags).with_context(|| format!("making {target}/ read-only"))
}

/// Adds nodev and nosuid to a mount and to all that are below it now.
fn restrict_all(target: &str) -> Result<()> {
    let c_target = CString::new(Path::new(target).as_os_str().as_bytes())?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: a string, and a structure of the size that is given with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            c_target.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    Errno::result(result).with_context(|| format!("mount_setattr on {target}"))?;
    Ok(())
}
