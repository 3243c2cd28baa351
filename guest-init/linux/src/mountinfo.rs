//! The list of mounts of a mount namespace. Source: proc_pid_mountinfo(5).

use std::{ffi::OsString, fs, io, os::unix::ffi::OsStringExt, path::PathBuf};

/// The list of the namespace that the process is in. It has an exceptional condition when a mount comes or goes.
pub const PATH: &str = "/proc/self/mountinfo";

/// Names a mount as long as it is there.
pub type MountId = u64;

/// A mount, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its id.
    pub id: MountId,
    /// The id of the mount that it is on.
    pub parent: MountId,
    /// Its mount point, seen from the root of the process.
    pub target: PathBuf,
}

/// The mounts of this process's namespace, in the kernel's order: a mount comes after the one below it.
///
/// # Errors
/// The file's.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read(PATH)?).collect())
}

/// The text of the list of this process's namespace.
///
/// # Errors
/// The file's.
pub fn table() -> io::Result<Vec<u8>> {
    fs::read(PATH)
}

/// What is mounted by a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type.
    pub kind: String,
    /// What it was mounted from: a device, a file, or anything.
    pub source: PathBuf,
    /// The directory of it that is the mount's root.
    pub root: PathBuf,
    /// The mount point, seen from the root of the process.
    pub target: PathBuf,
}

/// What the mount `id` of `table`, a mountinfo file, has mounted.
pub fn file_system(table: &[u8], id: MountId) -> Option<FileSystem> {
    let line = table.split(|byte| *byte == b'\n').find(|line| {
        let first = line.split(|byte| *byte == b' ').next().and_then(|text| std::str::from_utf8(text).ok());
        first.and_then(|text| text.parse().ok()) == Some(id)
    })?;
    let mut fields = line.split(|byte| *byte == b' ');
    let (root, target) = (unescape(fields.nth(3)?), unescape(fields.next()?));
    // Options of no fixed number, then a dash.
    fields.find(|field| *field == b"-")?;
    let kind = String::from_utf8(fields.next()?.to_vec()).ok()?;
    Some(FileSystem { kind, source: unescape(fields.next()?), root, target })
}

/// The mounts that `table`, a mountinfo file, lists. A line that is not understood is skipped.
pub fn parse(table: &[u8]) -> impl Iterator<Item = Mount> + '_ {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
        let (id, parent) = (number()?, number()?);
        Some(Mount { id, parent, target: unescape(fields.nth(2)?) })
    })
}

/// Undoes the octal escapes of blanks, line ends and backslashes.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        match octal {
            Some(digits) => {
                bytes.push(
                    digits.iter().fold(0u8, |sum, digit| sum.wrapping_mul(8).wrapping_add(digit - b'0')),
                );
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

    use super::*;

    #[test]
    fn ids_and_mount_points_are_listed_in_order() {
        let table = b"22 1 0:1 / / rw - virtiofs x rw\n\
            nonsense\n\
            23 22 0:2 / /mnt/a\\040b rw shared:7 - virtiofs x rw\n";
        let mounts: Vec<_> = parse(table).collect();
        let expected = [(22, 1, "/"), (23, 22, "/mnt/a b")];
        let expected = expected.map(|(id, parent, path)| Mount { id, parent, target: path.into() });
        assert_eq!(mounts, expected);
    }

    #[test]
    fn a_file_system_is_found_by_its_mount() {
        let table = b"122 1 0:1 / / rw - virtiofs x rw\n\
            22 1 7:1 /sub /a\\040b ro,relatime shared:7 master:1 - erofs /dev/loop1 ro,user_xattr\n";
        let found = file_system(table, 22).unwrap();
        let [source, root, target] = ["/dev/loop1", "/sub", "/a b"].map(PathBuf::from);
        assert_eq!(found, FileSystem { kind: "erofs".to_owned(), source, root, target });
        assert_eq!(file_system(table, 2), None);
    }

    #[test]
    fn each_escape_is_undone_once_and_other_bytes_stay() {
        assert_eq!(unescape(b"/a\\040b\\011\\012\\134c"), Path::new("/a b\t\n\\c"));
        assert_eq!(unescape(b"/a\\134040"), Path::new("/a\\040"));
        assert_eq!(unescape(b"/\xff\\9"), Path::new(OsStr::from_bytes(b"/\xff\\9")));
    }

    #[test]
    fn this_process_has_a_root_and_proc() {
        let mounts = read().unwrap();
        assert!(mounts.iter().any(|mount| mount.target == Path::new("/proc")), "{mounts:?}");
    }
}
