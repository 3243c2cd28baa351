//! Unpacks a layer into a directory that becomes a lower layer of an overlay.
//!
//! Each entry's parent is opened once, beneath the top directory and through no link; all that is done for the entry is done
//! in it. Nobody else can write there: the store is its user's alone.

mod compression;
mod entry;
mod kind;
mod meta;
mod name;
mod pax;
mod reader;
#[cfg(test)]
mod tests;
mod tree;
mod whiteout;

use std::{
    io::{self, Read},
    path::Path,
};

pub(crate) use compression::reader as decompressed;
pub(crate) use reader::Guarded;

use crate::{Digest, Error, Result, digest::HashingReader, error::EntryError, limits::Budget};
use entry::Unpacker;
use pax::Records;
use tree::Tree;

/// Unpacks the layer `packed` into the empty directory `top`. Returns the digest of the unpacked bytes: the layer's diff id.
pub(crate) fn unpack(packed: impl Read, top: &Path, budget: &Budget) -> Result<Digest> {
    let tree = Tree::open(top, budget).map_err(Error::io(format!("opening {}", top.display())))?;
    let hashing = HashingReader::new(compression::reader(packed).map_err(Error::tar)?);
    let (guarded, headers) = Guarded::new(hashing, Some(budget));
    let mut archive = tar::Archive::new(guarded);
    let mut unpacker = Unpacker::new(tree, budget);
    let mut entries = archive.entries().map_err(Error::tar)?;
    loop {
        headers.begin();
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(Error::tar)?;
        let records = headers.end(Records::new);
        let name = entry.path_bytes().into_owned();
        let done = records.and_then(|records| unpacker.unpack(&mut entry, &records));
        done.map_err(|why| named(&name, why))?;
        // What the entry has more; then its successor's headers follow.
        io::copy(&mut entry, &mut io::sink()).map_err(Error::tar)?;
    }
    headers.cancel();
    unpacker.finish().map_err(|(name, why)| named(&name, why))?;
    let hashing = archive.into_inner().drain().map_err(Error::tar)?;
    let (_, digest) = hashing.finish().map_err(Error::tar)?;
    Ok(digest)
}

fn named(name: &[u8], why: EntryError) -> Error {
    let why = match why {
        // A limit of the image's, which the entry only was the one to pass.
        EntryError::Io(source) => match source.downcast::<Error>() {
            Ok(own) => return own,
            Err(source) => EntryError::Io(source),
        },
        why => why,
    };
    let entry = String::from_utf8_lossy(name);
    Error::Entry { entry: entry.chars().take(300).collect(), why }
}
