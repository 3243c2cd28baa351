//! Whiteouts: names of an image that say what is gone from the layers below, and what overlayfs has for them.
//!
//! Source: https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts and the kernel's
//! Documentation/filesystems/overlayfs.rst.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

use rustix::fs::{FileType, Mode, mknodat};

use super::{
    name::Name,
    tree::{Before, Tree, before, make_opaque, open_directory},
};
use crate::error::EntryError;

const PREFIX: &[u8] = b".wh.";
/// What AUFS kept for itself.
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a name says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whiteout {
    /// It is an entry like any other.
    None,
    /// The directory it is in shows nothing of the layers below.
    Opaque,
    /// This name, beside it, is gone.
    Of(OsString),
    /// It says nothing.
    Ignored,
}

impl Whiteout {
    pub fn parse(name: &Name) -> Result<Whiteout, EntryError> {
        let last = name.last.as_bytes();
        if name.parents().any(|part| part.as_bytes().starts_with(META)) {
            return Ok(Whiteout::Ignored);
        }
        if last == OPAQUE {
            return Ok(Whiteout::Opaque);
        }
        if last.starts_with(META) {
            return Ok(Whiteout::Ignored);
        }
        match last.strip_prefix(PREFIX) {
            None => Ok(Whiteout::None),
            Some(b"" | b"." | b"..") => Err(EntryError::Whiteout),
            Some(gone) => Ok(Whiteout::Of(OsStr::from_bytes(gone).to_owned())),
        }
    }

    /// Does what it says. Returns false for an entry like any other.
    pub fn apply(&self, tree: &Tree, name: &Name) -> Result<bool, EntryError> {
        match self {
            Whiteout::None => return Ok(false),
            Whiteout::Ignored => {}
            Whiteout::Opaque => make_opaque(&open_directory(&tree.make_parent(name)?, ".".as_ref())?)?,
            Whiteout::Of(gone) => {
                let parent = tree.make_parent(name)?;
                // It hides what is below, not what this layer has.
                match before(&parent, gone)? {
                    Before::Nothing => mknodat(&parent, gone, FileType::CharacterDevice, Mode::empty(), 0)?,
                    Before::Directory => make_opaque(&open_directory(&parent, gone)?)?,
                    Before::Whiteout | Before::Other => {}
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Result<Whiteout, EntryError> {
        Whiteout::parse(&Name::parse(name.as_bytes()).unwrap().unwrap())
    }

    #[test]
    fn a_name_says_what_is_gone() {
        assert_eq!(parse("a/.wh.b").unwrap(), Whiteout::Of("b".into()));
        assert_eq!(parse("a/.wh..b").unwrap(), Whiteout::Of(".b".into()));
        assert_eq!(parse("a/.wh..wh..opq").unwrap(), Whiteout::Opaque);
        assert_eq!(parse("a/wh.b").unwrap(), Whiteout::None);
        for aufs in [".wh..wh.aufs", ".wh..wh.plnk/12.3", ".wh..wh.plnk/.wh.a"] {
            assert_eq!(parse(aufs).unwrap(), Whiteout::Ignored);
        }
    }

    #[test]
    fn a_whiteout_of_no_name_or_of_a_directory_above_is_refused() {
        for wrong in [".wh.", "a/.wh..", "a/.wh..."] {
            assert!(matches!(parse(wrong), Err(EntryError::Whiteout)), "{wrong}");
        }
    }
}
