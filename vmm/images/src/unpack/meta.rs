//! What an entry has besides its content: owner, mode, time and extended attributes.

use std::{io, os::fd::AsFd};

use rustix::{
    fs::{Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fsetxattr, futimens},
    io::Errno,
};

use super::pax::Records;
use crate::error::EntryError;

const CAPABILITY: &str = "security.capability";

/// Checked metadata of an entry.
#[derive(Debug)]
pub(super) struct Meta {
    pub uid: Uid,
    pub gid: Gid,
    pub mode: Mode,
    pub mtime: Timespec,
    /// In the order of the archive.
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Meta {
    pub fn new(header: &tar::Header, records: &Records) -> Result<Meta, EntryError> {
        const BAD: EntryError = EntryError::Header("an owner, a mode or a time that is no number");
        // Some tools leave a field out that is zero.
        let zero = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, 0 | b' '));
        let field = |bytes: &[u8], number: io::Result<u64>| match zero(bytes) {
            true => Ok(0),
            false => number.map_err(|_| BAD),
        };
        let raw = header.as_old();
        let owner = |key, bytes: &[u8], number: io::Result<u64>| match records.number(key)? {
            Some(number) => id(number),
            None => id(field(bytes, number)?),
        };
        let (uid, gid) = (owner("uid", &raw.uid, header.uid())?, owner("gid", &raw.gid, header.gid())?);
        let mode = field(&raw.mode, header.mode().map(u64::from))? as u32 & 0o7777;
        let mtime = match records.get("mtime") {
            Some(text) => time(text).ok_or(BAD)?,
            None => {
                let seconds = field(&raw.mtime, header.mtime())?;
                Timespec { tv_sec: seconds.try_into().map_err(|_| BAD)?, tv_nsec: 0 }
            }
        };
        let xattrs = records.with_prefix("SCHILY.xattr.").filter_map(|(key, value)| {
            let key = std::str::from_utf8(key).ok().filter(|key| allowed(key))?;
            Some((key.to_owned(), value.to_vec()))
        });
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        Ok(Meta { uid, gid, mode: Mode::from_raw_mode(mode), mtime, xattrs: xattrs.collect() })
    }

    /// Gives it all to an open file or directory. A change of the owner takes the bits of set-id and the capabilities: it
    /// comes first.
    pub fn apply(&self, file: impl AsFd) -> Result<(), EntryError> {
        let file = file.as_fd();
        fchown(file, Some(self.uid), Some(self.gid))?;
        fchmod(file, self.mode)?;
        for (key, value) in &self.xattrs {
            match fsetxattr(file, key.as_str(), value, XattrFlags::empty()) {
                // Not every file system keeps users' attributes; nothing breaks without them.
                Err(Errno::OPNOTSUPP) if key != CAPABILITY => log::warn!("images: {key} cannot be kept here"),
                done => done?,
            }
        }
        Ok(futimens(file, &self.times())?)
    }

    pub fn times(&self) -> Timestamps {
        times(self.mtime)
    }
}

/// Both times of a file.
pub(super) fn times(mtime: Timespec) -> Timestamps {
    Timestamps { last_access: mtime, last_modification: mtime }
}

/// Others change what an overlay shows (`trusted.overlay.*`), or what the host's security modules do.
fn allowed(key: &str) -> bool {
    key == CAPABILITY || key.starts_with("user.") && !key.starts_with("user.overlay.")
}

/// The highest number means "no change" to the kernel.
fn id(number: u64) -> Result<u32, EntryError> {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX).ok_or(EntryError::Owner(number))
}

/// Seconds since 1970 as a decimal fraction, maybe negative.
fn time(text: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}")[..9].parse().ok()?;
    let (tv_sec, tv_nsec) = match whole.starts_with('-') && nanos != 0 {
        true => (seconds.checked_sub(1)?, 1_000_000_000 - nanos),
        false => (seconds, nanos),
    };
    Some(Timespec { tv_sec, tv_nsec })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_have_a_fraction_and_be_before_1970() {
        let parts = |text: &str| time(text.as_bytes()).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(parts("12"), Some((12, 0)));
        assert_eq!(parts("12.5"), Some((12, 500_000_000)));
        assert_eq!(parts("12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(parts("-1.25"), Some((-2, 750_000_000)));
        for wrong in ["", "x", "1.x", "1.-5", "1.é", "99999999999999999999"] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_field_that_is_left_out_is_zero_and_one_of_no_number_is_refused() {
        let mut header = tar::Header::new_gnu();
        let meta = Meta::new(&header, &Records::default()).unwrap();
        assert_eq!((meta.uid.as_raw(), meta.mode.as_raw_mode(), meta.mtime.tv_sec), (0, 0, 0));
        header.as_old_mut().uid = *b"nobody\0\0";
        assert!(matches!(Meta::new(&header, &Records::default()), Err(EntryError::Header(_))));
    }

    #[test]
    fn only_capabilities_and_users_attributes_are_taken() {
        assert!(allowed("security.capability") && allowed("user.a"));
        for key in [
            "trusted.overlay.opaque",
            "user.overlay.redirect",
            "security.selinux",
            "system.posix_acl_access",
            "user",
        ] {
            assert!(!allowed(key), "{key}");
        }
    }

    #[test]
    fn the_owner_that_means_no_change_is_refused() {
        assert_eq!(id(u64::from(u32::MAX) - 1).unwrap(), u32::MAX - 1);
        for wrong in [u64::from(u32::MAX), 1 << 32] {
            assert!(matches!(id(wrong), Err(EntryError::Owner(_))));
        }
    }
}
