//! SHA-256 digests: what names each document and layer, and what each must have.

use std::{
    fmt,
    io::{self, Read},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

const PREFIX: &str = "sha256:";

/// `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest::finished(Sha256::new_with_prefix(bytes))
    }

    /// The digits, without `sha256:`.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    /// What a file or directory for it is called.
    pub fn file_name(&self) -> String {
        format!("sha256-{}", self.hex())
    }

    /// The digest that [`Digest::file_name`] gave this name.
    pub(crate) fn from_file_name(name: &str) -> Option<Digest> {
        format!("{PREFIX}{}", name.strip_prefix("sha256-")?).parse().ok()
    }

    /// Fails unless `found` is this one.
    pub(crate) fn check(&self, found: Digest, what: impl FnOnce() -> String) -> Result<()> {
        if *self == found {
            return Ok(());
        }
        Err(Error::Mismatch { what: what(), wanted: self.clone(), found })
    }

    fn finished(state: Sha256) -> Digest {
        use fmt::Write;
        let mut text = PREFIX.to_owned();
        for byte in state.finalize() {
            let _ = write!(text, "{byte:02x}");
        }
        Digest(text)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Digest> {
        let hex = text.strip_prefix(PREFIX).unwrap_or_default();
        let right = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if right { Ok(Digest(text.to_owned())) } else { Err(Error::Digest(text.chars().take(160).collect())) }
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Digest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

/// A hash of bytes that come in pieces.
#[derive(Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Digest {
        Digest::finished(self.0)
    }
}

/// Hashes what is read through it.
pub(crate) struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
    read: u64,
}

impl<R: Read> HashingReader<R> {
    pub fn new(inner: R) -> Self {
        HashingReader { inner, hasher: Hasher::default(), read: 0 }
    }

    /// Reads what is left. Returns how many bytes there were in all, and their digest.
    pub fn finish(mut self) -> io::Result<(u64, Digest)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((self.read, self.hasher.finish()))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.hasher.update(&into[..read]);
        self.read += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn only_sha256_with_64_small_digits_is_a_digest() {
        assert_eq!(EMPTY.parse::<Digest>().unwrap().to_string(), EMPTY);
        let capital = EMPTY.replace('e', "E");
        let path = format!("sha256:../{}", &EMPTY[10..]);
        for wrong in ["", "sha256:", &EMPTY[7..], &EMPTY[..70], &capital, &path, &EMPTY.replace("256", "512")]
        {
            assert!(matches!(wrong.parse::<Digest>(), Err(Error::Digest(_))), "{wrong}");
        }
    }

    #[test]
    fn a_file_name_leads_back_to_its_digest() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(Digest::from_file_name(&digest.file_name()), Some(digest));
        assert_eq!(Digest::from_file_name("sha256-1"), None);
    }

    #[test]
    fn a_reader_hashes_all_also_what_nobody_read() {
        let mut reader = HashingReader::new(&b"abc"[..]);
        reader.read_exact(&mut [0]).unwrap();
        assert_eq!(reader.finish().unwrap(), (3, Digest::of(b"abc")));
    }
}
