//! Extended headers of a tar archive: `LENGTH KEY=VALUE\n` for each record, where a value may be of any bytes.
//!
//! The tar crate ends a value at its first newline, which the bytes of a capability can have. So the records are read again
//! here, from the headers as they came.

use crate::error::EntryError;

const BLOCK: usize = 512;
/// Where a header has its type, and its size in octal digits.
const TYPE: usize = 156;
const SIZE: std::ops::Range<usize> = 124..136;

/// The records of one entry.
#[derive(Debug, Default)]
pub(super) struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    /// Reads them from the headers of an entry, its own and those before it, from the beginning of a block on.
    pub fn new(headers: &[u8]) -> Result<Records, EntryError> {
        let mut rest = headers;
        while let Some((header, after)) = rest.split_at_checked(BLOCK) {
            let size = match header[TYPE] {
                b'x' | b'L' | b'K' => octal(&header[SIZE])?,
                // The entry itself: nothing that describes it follows.
                _ => return Ok(Records::default()),
            };
            let data = after.get(..size).ok_or(EntryError::Header("a header that is cut off"))?;
            if header[TYPE] == b'x' {
                return Records::parse(data);
            }
            rest = after.get(size.next_multiple_of(BLOCK)..).unwrap_or_default();
        }
        Ok(Records::default())
    }

    fn parse(mut data: &[u8]) -> Result<Records, EntryError> {
        const BAD: EntryError = EntryError::Header("extended headers that are no LENGTH KEY=VALUE records");
        let mut records = Vec::new();
        while !data.is_empty() {
            let space = data.iter().take(20).position(|byte| *byte == b' ').ok_or(BAD)?;
            let digits = std::str::from_utf8(&data[..space]).map_err(|_| BAD)?;
            let length: usize = digits.parse().map_err(|_| BAD)?;
            let (record, rest) = data.split_at_checked(length).ok_or(BAD)?;
            let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or(BAD)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
            records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
            data = rest;
        }
        Ok(Records(records))
    }

    /// The value of `key`; of several the last one counts.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let found = self.0.iter().rev().find(|(found, _)| found == key.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    /// The value of `key` as a number.
    pub fn number(&self, key: &str) -> Result<Option<u64>, EntryError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        number.map(Some).ok_or(EntryError::Header("an extended header that should be a number is none"))
    }

    /// The values whose keys begin with `prefix`, with the rest of their keys.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.0
            .iter()
            .filter_map(move |(key, value)| Some((key.strip_prefix(prefix.as_bytes())?, value.as_slice())))
    }
}

/// The size of an extended header: short, so in octal digits.
fn octal(field: &[u8]) -> Result<usize, EntryError> {
    let text = std::str::from_utf8(field).unwrap_or_default();
    let digits = text.trim_matches(['\0', ' ']);
    usize::from_str_radix(digits, 8).map_err(|_| EntryError::Header("an extended header of no size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        bytes[TYPE] = kind;
        bytes[SIZE].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    #[test]
    fn a_value_may_have_newlines_and_equal_signs() {
        let data = b"20 SCHILY.xattr.a=\n\n11 uid=1=2\n";
        let records =
            Records::new(&[block(b'L', b"name\0"), block(b'x', data), block(b'0', b"")].concat()).unwrap();
        assert_eq!(records.get("SCHILY.xattr.a").unwrap(), b"\n");
        assert_eq!(records.get("uid").unwrap(), b"1=2");
        assert_eq!(records.with_prefix("SCHILY.xattr.").collect::<Vec<_>>(), [(&b"a"[..], &b"\n"[..])]);
        assert!(records.number("uid").is_err());
    }

    #[test]
    fn only_headers_before_the_entry_count() {
        let headers = [block(b'0', b""), block(b'x', b"8 uid=1\n")].concat();
        assert!(Records::new(&headers).unwrap().get("uid").is_none());
        assert!(Records::new(&[]).unwrap().get("uid").is_none());
    }

    #[test]
    fn records_that_do_not_add_up_are_refused() {
        for wrong in [
            "uid=1\n",
            "9 uid=1\n",
            "7 uid=1\n",
            "8 uid_1\n",
            "0 \n",
            "99999999999999999999999 a=b\n",
            "2 \n",
        ] {
            assert!(Records::new(&block(b'x', wrong.as_bytes())).is_err(), "{wrong}");
        }
        let cut = &block(b'x', &[b'1'; 600])[..700];
        assert!(Records::new(cut).is_err());
    }
}
