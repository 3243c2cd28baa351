//! Names of a layer's entries: they lead down, from the layer's top directory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::{error::EntryError, limits::MAX_DEPTH};

/// A name without `.`, `..` or doubled slashes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The directories on the way, joined; `.` where there are none.
    pub parent: OsString,
    /// The last component.
    pub last: OsString,
}

impl Name {
    /// Reads the bytes of an archive. None is the top directory.
    pub fn parse(bytes: &[u8]) -> Result<Option<Name>, EntryError> {
        if bytes.contains(&0) {
            return Err(EntryError::Nul);
        }
        if bytes.starts_with(b"/") {
            return Err(EntryError::Absolute);
        }
        let parts = bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        let parts: Vec<_> = parts.collect();
        if parts.contains(&&b".."[..]) {
            return Err(EntryError::Dots);
        }
        if parts.len() > MAX_DEPTH {
            return Err(EntryError::Deep);
        }
        let Some((last, parents)) = parts.split_last() else { return Ok(None) };
        let parent = if parents.is_empty() { b".".to_vec() } else { parents.join(&b'/') };
        Ok(Some(Name { parent: OsString::from_vec(parent), last: OsStr::from_bytes(last).to_owned() }))
    }

    /// The components of its parent.
    pub fn parents(&self) -> impl Iterator<Item = &OsStr> {
        self.parent.as_bytes().split(|byte| *byte == b'/').filter(|part| *part != b".").map(OsStr::from_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cleaned() {
        for (name, parent, last) in
            [("a", ".", "a"), ("./a/", ".", "a"), ("a//b/./c", "a/b", "c"), ("a/..b", "a", "..b")]
        {
            let found = Name::parse(name.as_bytes()).unwrap().unwrap();
            assert_eq!((found.parent.to_str(), found.last.to_str()), (Some(parent), Some(last)));
        }
        for top in ["", ".", "./", "././"] {
            assert_eq!(Name::parse(top.as_bytes()).unwrap(), None);
        }
    }

    #[test]
    fn a_name_that_is_absolute_or_leads_up_is_refused() {
        assert!(matches!(Name::parse(b"/etc/passwd"), Err(EntryError::Absolute)));
        for up in ["..", "../a", "a/..", "a/../b", "./.."] {
            assert!(matches!(Name::parse(up.as_bytes()), Err(EntryError::Dots)), "{up}");
        }
        assert!(matches!(Name::parse(b"a\0b"), Err(EntryError::Nul)));
    }

    #[test]
    fn a_name_has_at_most_256_components() {
        let deep = |depth| Name::parse("a/".repeat(depth).as_bytes());
        assert!(deep(MAX_DEPTH).is_ok());
        assert!(matches!(deep(MAX_DEPTH + 1), Err(EntryError::Deep)));
    }
}
