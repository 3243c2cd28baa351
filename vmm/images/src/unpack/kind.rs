//! What an entry is.

use tar::EntryType;

use crate::error::EntryError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Character,
    Block,
    Fifo,
    /// It says something of others, which is not used.
    Ignored,
}

impl Kind {
    /// Old archives have directories as files whose names end with a slash.
    pub fn new(kind: EntryType, name: &[u8]) -> Result<Kind, EntryError> {
        Ok(match kind {
            EntryType::Regular if name.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Char => Kind::Character,
            EntryType::Block => Kind::Block,
            EntryType::Fifo => Kind::Fifo,
            EntryType::XGlobalHeader => Kind::Ignored,
            other => return Err(EntryError::Kind(other.as_byte() as char)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_nobody_knows_is_refused() {
        let kind = |byte, name| Kind::new(EntryType::new(byte), name);
        assert_eq!(kind(b'0', b"a").unwrap(), Kind::File);
        assert_eq!(kind(b'\0', b"a/").unwrap(), Kind::Directory);
        assert_eq!(kind(b'g', b"a").unwrap(), Kind::Ignored);
        for byte in [b'M', b'V', b'D', b'Z'] {
            assert!(matches!(kind(byte, b"a"), Err(EntryError::Kind(_))));
        }
    }
}
