//! The vmm's file system: the share, a /proc of its own, /dev/kvm, its socket directory and, with NICs, /dev/net/tun. It
//! contains nothing else. Mounts that the caller makes below the share later appear here; no mount of the vmm reaches
//! the host.

use std::{ffi::CString, fs, os::unix::ffi::OsStrExt, path::Path};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::{chdir, pivot_root},
};
use vm_launcher::{Network, VmConfig, probe::DEV_KVM};

use super::{SHARE, SOCKETS};

/// The new root is mounted here until it becomes the root: every host has this directory, and nothing that goes into the
/// new root is below it.
const STAGE: &str = "/proc";

/// The device of taps, at the path that libkrun opens.
pub const DEV_TUN: &str = "/dev/net/tun";

/// Enough for the few directories and empty files of the new root.
const ROOT_OPTIONS: &str = "mode=0755,size=64k,nr_inodes=32";

/// /proc shows only processes, and only those that this process may inspect.
const PROC_OPTIONS: &str = "hidepid=invisible,subset=pid";

/// Changes to the new root. The mount namespace must be ours alone.
pub fn change(config: &VmConfig) -> Result<()> {
    remount("/", MsFlags::MS_SLAVE | MsFlags::MS_REC).context("making the host's mounts slaves")?;
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
    // The guest uses device nodes by itself; nobody may open one here. The caller sets the flags of mounts that it makes
    // later.
    restrict_all(&staged(SHARE))?;
    make_read_only(SHARE, MsFlags::MS_NODEV)?;

    directory(SOCKETS)?;
    bind(&config.socket_dir, SOCKETS, MsFlags::empty())?;
    make_read_only(SOCKETS, MsFlags::MS_NODEV)?;

    directory("/dev")?;
    device(DEV_KVM)?;
    if let Network::Tap(_) = config.network {
        // Without CAP_NET_ADMIN the vmm can attach only to its own taps: those that belong to its user.
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

    make_read_only("", MsFlags::MS_NODEV)?;
    chdir(STAGE).context("entering the new root")?;
    // The old root is now mounted on top of the new one. Source: pivot_root(2), "pivot_root(".", ".")".
    pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("detaching the host's root")?;
    chdir("/").context("entering /")
}

fn staged(path: &str) -> String {
    format!("{STAGE}{path}")
}

fn directory(path: &str) -> Result<()> {
    fs::create_dir(staged(path)).with_context(|| format!("making the mount point {path}"))
}

/// Binds a device without nodev, so that it can be opened.
fn device(path: &str) -> Result<()> {
    fs::write(staged(path), "").with_context(|| format!("making the mount point {path}"))?;
    bind(Path::new(path), path, MsFlags::empty())?;
    make_read_only(path, MsFlags::empty())
}

/// Changes the flags or the propagation of an existing mount.
fn remount(target: &str, flags: MsFlags) -> nix::Result<()> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
}

fn bind(source: &Path, target: &str, recursive: MsFlags) -> Result<()> {
    mount(Some(source), staged(target).as_str(), None::<&str>, MsFlags::MS_BIND | recursive, None::<&str>)
        .with_context(|| format!("binding {} to {target}", source.display()))
}

/// Makes a mount read-only, nosuid and noexec. Mounts below it do not change.
fn make_read_only(target: &str, more: MsFlags) -> Result<()> {
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NOEXEC
        | more;
    remount(&staged(target), flags).with_context(|| format!("making {target}/ read-only"))
}

/// Adds nodev and nosuid to a mount and to all mounts that are below it now.
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
