//! Where containers' root file systems are, and how much they may write there.

use std::str::FromStr;

use super::in_range;
use crate::error::{Error, Result};

/// What a container's rootfs is for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roots {
    /// [`Roots::Block`] where the snapshotter gives file systems that nobody has to mount on the host, else [`Roots::Virtiofs`].
    Auto,
    /// The host's snapshot, which the guest reaches by virtiofs.
    Virtiofs,
    /// A file system of the guest's own: the snapshot, or an overlay of the image's files and a disk that takes what is written.
    Block,
}

/// MiB of the disk unless something else is asked for. It is sparse: it takes what is written.
pub const DEFAULT_SIZE_MIB: u32 = 10 << 10;

/// The least, for which ext4 has a journal and room for files.
const MIN_SIZE_MIB: i64 = 64;

/// The most: 16 TiB, which ext4 has with blocks of 4 KiB. Source: Documentation/filesystems/ext4/blocks.rst.
const MAX_SIZE_MIB: i64 = 16 << 20;

impl FromStr for Roots {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Roots::Auto),
            "virtiofs" => Ok(Roots::Virtiofs),
            "block" => Ok(Roots::Block),
            other => Err(Error::invalid(format!(
                "rootfs = {other:?}: must be one of \"auto\", \"virtiofs\", \"block\""
            ))),
        }
    }
}

/// Checks a disk's size.
///
/// # Errors
/// `INVALID_ARGUMENT` that says what is allowed.
pub fn size_in_range(key: &str, size: i64) -> Result<u32> {
    Ok(in_range(key, size, MIN_SIZE_MIB, MAX_SIZE_MIB, "ext4's limits")? as u32)
}
