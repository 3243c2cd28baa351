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
