//! The disks of a VM: one that is its container's rootfs, or takes what its containers write to theirs, and devices of the host's.
//!
//! One that takes what is written is a sparse file beside the upper layer of a snapshot, and goes with the snapshot. The host formats it
//! once, when it is empty. From then on its contents are the guest's: the host never reads or mounts them.

pub mod claim;
mod format;

use std::{fs::File, io, os::fd::OwnedFd, path::Path, sync::Arc};

use guest_protocol::boot::{ROOT_DISK, UPPER_DISK};
use log::warn;
use nix::{errno::Errno, fcntl::OFlag};

use self::format::format;
use super::pin::{self, Pinned};
use crate::{
    bundle::HostDisk,
    error::{Error, Result},
};

/// The name of the one that takes what is written.
const NAME: &str = "krun-upper.img";

/// Its name until it is formatted.
const UNFINISHED: &str = "krun-upper.img.new";

/// A VM's disk.
#[derive(Debug)]
pub struct VmDisk {
    /// The name by which the guest knows what it is for.
    pub name: String,
    /// Its file or device, open for reading and writing.
    pub file: OwnedFd,
    /// Where it was made just now: no container has written to it yet.
    pub made: Option<NewDisk>,
    /// What containers sync is to outlive a crash of the host.
    pub durable: bool,
    /// The guest may only read it.
    pub read_only: bool,
}

/// A disk that was made just now: its snapshot's directory, and its file, whose lock keeps others from it.
#[derive(Debug, Clone)]
pub struct NewDisk(Pinned, Arc<OwnedFd>);

impl NewDisk {
    /// One whose file is elsewhere, for tests.
    #[cfg(test)]
    pub fn fake(snapshot: Pinned, file: OwnedFd) -> NewDisk {
        NewDisk(snapshot, Arc::new(file))
    }

    /// Removes the disk of a container that could not be created. It blocks.
    pub fn remove(self) {
        let NewDisk(snapshot, _locked) = self;
        if let Err(error) = pin::remove(&snapshot, Path::new(NAME)) {
            warn!("remove {}: {error}", snapshot.path().join(NAME).display());
        }
    }
}

impl VmDisk {
    /// A snapshot that is a file, or a device, with a container's rootfs.
    ///
    /// # Errors
    /// The failing step's, naming the path; when another VM has it, or the host has mounted it.
    pub fn of_snapshot(snapshot: &Pinned) -> Result<VmDisk> {
        let file = claim::snapshot(snapshot).map_err(|e| {
            Error::internal(format!("use the snapshot {} as a disk", snapshot.path().display())).because(e)
        })?;
        Ok(VmDisk { name: ROOT_DISK.to_owned(), file, made: None, durable: true, read_only: false })
    }

    /// The block device with these numbers on the host, with the name of a container's device `number`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names it, when there is none, or it is to be written to and is mounted or another VM's.
    pub fn device(number: usize, device: &HostDisk) -> Result<VmDisk> {
        let HostDisk { ref path, major, minor, read_only } = *device;
        let access = if read_only { OFlag::O_RDONLY } else { OFlag::O_RDWR };
        let opened =
            pin::block_device(major as u64, minor as u64).and_then(|found| claim::device(&found, access));
        let file = opened.map_err(|e| {
            Error::invalid(format!("linux.devices: {}, the block device {major}:{minor}", path.display()))
                .because(e)
        })?;
        Ok(VmDisk { name: device_name(number), file, made: None, durable: true, read_only })
    }

    /// Whether a snapshot has a disk for what is written.
    ///
    /// # Errors
    /// The file system's.
    pub fn is_there(snapshot: &Pinned) -> io::Result<bool> {
        match snapshot.beneath(Path::new(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            // What else is there is told when it is opened.
            Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => Ok(true),
            found => found.map(|_| true),
        }
    }

    /// Opens the disk for what is written, in the directory `snapshot`, which is made with `size` MiB unless it is there. It blocks.
    ///
    /// # Errors
    /// The failing step's, naming the path. No disk that is not whole stays behind.
    pub fn upper(snapshot: &Pinned, size: u32, durable: bool) -> Result<VmDisk> {
        let failed = |what: &str, e: io::Error| {
            let path = snapshot.path().join(NAME);
            Error::internal(format!("rootfs = block: {what} {}", path.display())).because(e)
        };
        let disk = |file: File, made| VmDisk {
            name: UPPER_DISK.to_owned(),
            file: file.into(),
            made,
            durable,
            read_only: false,
        };
        match pin::open_regular_to_write(snapshot, Path::new(NAME)) {
            Ok(file) => {
                claim::lock(&file).map_err(|e| failed("use", e))?;
                return Ok(disk(file, None));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("open", error)),
            Err(_) => {}
        }
        let made = make(snapshot, size).and_then(|file| Ok((file.try_clone()?, file)));
        let made = made.map_err(|e| failed("make", e));
        if made.is_err() {
            let _ = pin::remove(snapshot, Path::new(UNFINISHED));
        }
        let (locked, file) = made?;
        Ok(disk(file, Some(NewDisk(snapshot.clone(), Arc::new(locked.into())))))
    }
}

/// The name of a container's device `number`, as a disk.
pub fn device_name(number: usize) -> String {
    format!("device-{number}")
}

fn make(snapshot: &Pinned, size: u32) -> io::Result<File> {
    // What a shim left that was killed here.
    pin::remove(snapshot, Path::new(UNFINISHED))?;
    pin::make_file(snapshot, Path::new(UNFINISHED), 0o600)?;
    let file = pin::open_regular_to_write(snapshot, Path::new(UNFINISHED))?;
    claim::lock(&file)?;
    file.set_len(u64::from(size) << 20)?;
    format(&file)?;
    failpoint!(blocking "create.upper");
    pin::rename(snapshot, UNFINISHED, NAME)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn snapshot() -> (tempfile::TempDir, Pinned) {
        let dir = tempfile::tempdir().unwrap();
        let pinned = Pinned::open(dir.path()).unwrap();
        (dir, pinned)
    }

    #[test]
    fn a_disk_is_made_once_and_takes_no_room() {
        let (dir, snapshot) = snapshot();
        std::fs::write(dir.path().join(UNFINISHED), "half").unwrap();
        let disk = match VmDisk::upper(&snapshot, 1024, true) {
            Err(error) if error.to_string().contains("install e2fsprogs") => {
                println!("skipped: {error}");
                return;
            }
            disk => disk.unwrap(),
        };
        let made = disk.made.unwrap();
        let metadata = std::fs::metadata(dir.path().join(NAME)).unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o777), (1 << 30, 0o600));
        assert!(metadata.blocks() < 8192, "{} blocks of 512 bytes", metadata.blocks());
        // The magic number of ext4. Source: Documentation/filesystems/ext4/super.rst.
        let file = File::from(disk.file);
        let mut magic = [0; 2];
        file.read_exact_at(&mut magic, 1024 + 0x38).unwrap();
        assert_eq!(u16::from_le_bytes(magic), 0xef53);
        file.write_all_at(b"guest's", 0).unwrap();

        let error = VmDisk::upper(&snapshot, 64, true).unwrap_err().to_string();
        assert!(error.contains("another VM has it"), "{error}");
        drop((file, made));
        let again = VmDisk::upper(&snapshot, 64, true).unwrap();
        let mut first = [0; 7];
        File::from(again.file).read_exact_at(&mut first, 0).unwrap();
        assert_eq!((again.made.is_some(), &first), (false, b"guest's"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_disk_that_nobody_has_used_goes_and_is_nobodys_until_then() {
        let (dir, snapshot) = snapshot();
        let VmDisk { file, made, .. } = match VmDisk::upper(&snapshot, 64, true) {
            Err(error) if error.to_string().contains("install e2fsprogs") => {
                println!("skipped: {error}");
                return;
            }
            disk => disk.unwrap(),
        };
        drop(file);
        let error = VmDisk::upper(&snapshot, 64, true).unwrap_err().to_string();
        assert!(error.contains("another VM has it"), "{error}");
        made.unwrap().remove();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_file_is_no_disk() {
        let (dir, snapshot) = snapshot();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(NAME)).unwrap();
        let error = VmDisk::upper(&snapshot, 64, true).unwrap_err().to_string();
        assert!(error.contains(NAME), "{error}");
        std::fs::remove_file(dir.path().join(NAME)).unwrap();
        std::fs::create_dir(dir.path().join(NAME)).unwrap();
        VmDisk::upper(&snapshot, 64, true).unwrap_err();
    }
}
