//! How much an image may have.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// The longest manifest, index or configuration, in bytes.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Images that a file may have: all their documents are read before the first is unpacked.
pub(crate) const MAX_IMAGES: usize = 64;

/// The most layers of an image.
pub const MAX_LAYERS: usize = 128;
/// The most files and directories of an image, in all its layers.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// The most bytes of an image when it is unpacked, unless the caller says otherwise: 64 GiB.
pub const DEFAULT_UNPACKED: u64 = 64 << 30;
/// The deepest directory. A tree's removal holds one descriptor for each level.
pub(crate) const MAX_DEPTH: usize = 256;
/// The most bytes of headers for one entry: its long names, extended attributes and the map of a sparse file.
pub(crate) const MAX_HEADERS: u64 = 1 << 20;

/// The most bytes of the names of a layer's directories: they are kept until all else is there.
pub(crate) const MAX_NAMES: usize = 256 << 20;

/// What is left of an image's limits. Its layers draw on it at the same time.
pub(crate) struct Budget {
    allowed: u64,
    bytes: AtomicU64,
    entries: AtomicU64,
}

impl Budget {
    pub fn new(allowed: u64) -> Budget {
        Budget { allowed, bytes: AtomicU64::new(allowed), entries: AtomicU64::new(MAX_ENTRIES) }
    }

    /// Takes `bytes` of the unpacked ones.
    pub fn bytes(&self, bytes: u64) -> Result<()> {
        take(&self.bytes, bytes).ok_or(Error::TooBig { allowed: self.allowed })
    }

    /// Takes one file or directory.
    pub fn entry(&self) -> Result<()> {
        take(&self.entries, 1).ok_or(Error::TooManyEntries)
    }
}

fn take(from: &AtomicU64, amount: u64) -> Option<()> {
    from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(amount)).ok().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_gone_and_no_more_is_given() {
        let budget = Budget::new(10);
        budget.bytes(4).unwrap();
        budget.bytes(6).unwrap();
        assert!(matches!(budget.bytes(1), Err(Error::TooBig { allowed: 10 })));
        for _ in 0..MAX_ENTRIES {
            budget.entry().unwrap();
        }
        assert!(matches!(budget.entry(), Err(Error::TooManyEntries)));
    }
}
