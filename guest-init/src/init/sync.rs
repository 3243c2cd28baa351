//! Writes a container's file systems back to the host. In a fork, because a sync may take as long
//! as the host's disk does, and PID 1 must answer meanwhile.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::fork::{Report, fork};
use super::reaper::Reaper;

/// Syncs the container's rootfs and its volumes; failures are logged, as the exit they precede
/// has happened anyway.
pub async fn container(reaper: &Reaper, rootfs: &Path) {
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return };
    let null = std::os::fd::AsFd::as_fd(&null);
    let forked = fork(reaper, [null; 3], &[], |reporter| {
        for path in targets(rootfs) {
            if let Ok(file) = File::open(&path) {
                // SAFETY: takes an open descriptor.
                if unsafe { libc::syncfs(file.as_raw_fd()) } < 0 {
                    let err = std::io::Error::last_os_error();
                    reporter.send(&Report::Failed(format!("sync {}: {err}", path.display())));
                }
            }
        }
        reporter.send(&Report::Done);
        0
    });
    match forked {
        Ok(fork) => {
            for report in fork.all().await {
                if let Report::Failed(why) = report {
                    log::warn!("{why}");
                }
            }
        }
        Err(err) => log::warn!("fork to sync {}: {err}", rootfs.display()),
    }
}

/// The rootfs, and the volumes beside it in the share.
fn targets(rootfs: &Path) -> Vec<PathBuf> {
    let mounts = rootfs.with_file_name("mounts");
    let volumes = std::fs::read_dir(mounts).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(rootfs.to_owned()).chain(volumes).collect()
}
