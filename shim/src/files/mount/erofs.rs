//! Layers of an image that the host has mounted from files with an erofs each, as containerd's erofs snapshotter does: a guest can
//! mount the same files.

use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use containerd_shim_protos::types::mount::Mount;
use linux::mountinfo::{self, FileSystem};
use nix::fcntl::OFlag;

use super::mount_of;
use crate::files::pin::{self, Pinned};

/// Where the superblock is, its magic number, and where it has what a reader must know and how many other devices. Source:
/// `struct erofs_super_block` of fs/erofs/erofs_fs.h in Linux.
const SUPERBLOCK: u64 = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
const FEATURES: usize = 80;
const OTHER_DEVICES: usize = 86;

/// Features that every erofs driver has from Linux 6.12 on, whatever its configuration: files in chunks, and prefixes of attributes'
/// names. Compression is not among them. Source: `EROFS_FEATURE_INCOMPAT_*` there.
const PLAIN: u32 = 0x4 | 0x40;

/// The files of an image's layers, the uppermost first. None when one of them is no erofs of one file, or one that not every guest
/// can read.
///
/// # Errors
/// When the list of mounts cannot be read.
pub fn files_of(mounts: &[Mount]) -> io::Result<Option<Vec<Pinned>>> {
    let [image] = mounts else { return Ok(None) };
    let directories: Vec<_> = match image.type_.as_str() {
        "bind" => vec![image.source.as_str()],
        _ => {
            let lower = image.options.iter().find_map(|option| option.strip_prefix("lowerdir="));
            lower.unwrap_or_default().split(':').collect()
        }
    };
    // Other owners are a matter of the host's mounts.
    if image.options.iter().any(|option| option.starts_with("uidmap=")) {
        return Ok(None);
    }
    let table = mountinfo::table()?;
    Ok(directories.into_iter().map(|directory| file_of(Path::new(directory), &table)).collect())
}

/// The file that is mounted on `directory`.
fn file_of(directory: &Path, table: &[u8]) -> Option<Pinned> {
    let root = Pinned::open_directory(directory).ok()?;
    let FileSystem { kind, source, root: top, target } =
        mountinfo::file_system(table, mount_of(&root).ok()?)?;
    if kind != "erofs" || top != Path::new("/") || target != pin::current_path(&root).ok()? {
        return None;
    }
    let file = match source.to_str()?.strip_prefix("/dev/loop") {
        Some(number) => backing_file(number.parse().ok()?)?,
        None => source,
    };
    let file = Pinned::open(&file).ok()?;
    is_plain(&file).ok()?.then_some(file)
}

/// The file of a loop device that shows the whole of it.
#[expect(clippy::disallowed_methods, reason = "files of the kernel's")]
fn backing_file(number: u32) -> Option<PathBuf> {
    let says = |what: &str| fs::read_to_string(format!("/sys/block/loop{number}/loop/{what}")).ok();
    let whole = says("offset")?.trim() == "0" && says("sizelimit")?.trim() == "0";
    whole.then_some(says("backing_file")?.trim_end_matches('\n').into())
}

/// Whether it is a file with an erofs that every guest can read.
fn is_plain(file: &Pinned) -> io::Result<bool> {
    if !file.is_file()? {
        return Ok(false);
    }
    let mut block = [0; 128];
    pin::reopen(file, OFlag::O_RDONLY)?.read_exact_at(&mut block, SUPERBLOCK)?;
    let number = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let others = u16::from_le_bytes([block[OTHER_DEVICES], block[OTHER_DEVICES + 1]]);
    Ok(number(0) == MAGIC && number(FEATURES) & !PLAIN == 0 && others == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that begins as an erofs with these features and other devices.
    fn image(features: u32, others: u16) -> (tempfile::NamedTempFile, Pinned) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut block = [0; 128];
        block[..4].copy_from_slice(&MAGIC.to_le_bytes());
        block[FEATURES..FEATURES + 4].copy_from_slice(&features.to_le_bytes());
        block[OTHER_DEVICES..OTHER_DEVICES + 2].copy_from_slice(&others.to_le_bytes());
        file.as_file().write_all_at(&block, SUPERBLOCK).unwrap();
        let pinned = Pinned::open(file.path()).unwrap();
        (file, pinned)
    }

    #[test]
    fn only_what_every_guest_can_read_is_plain() {
        let plain = |features, others| is_plain(&image(features, others).1).unwrap();
        assert!(plain(0, 0) && plain(0x44, 0));
        // LZ4, and a part on another device.
        assert!(!plain(0x1, 0) && !plain(0x3, 0) && !plain(0x4, 1));
        let (file, pinned) = image(0, 0);
        file.as_file().write_all_at(b"x", SUPERBLOCK).unwrap();
        assert!(!is_plain(&pinned).unwrap());
        file.as_file().set_len(1024).unwrap();
        is_plain(&pinned).unwrap_err();
        assert!(!is_plain(&Pinned::open(Path::new("/dev/null")).unwrap()).unwrap());
    }

    #[test]
    fn directories_that_are_no_erofs_are_no_layers() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().display().to_string();
        let bind = Mount { type_: "bind".to_owned(), source, ..Mount::default() };
        assert_eq!(files_of(std::slice::from_ref(&bind)).unwrap().map(|files| files.len()), None);
        assert!(files_of(&[bind.clone(), bind]).unwrap().is_none());
    }
}
