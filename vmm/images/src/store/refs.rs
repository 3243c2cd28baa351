//! References: what images are called, and what they have.

use std::{fs, io, path::PathBuf};

use oci_spec::distribution::Reference;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::Store;
use crate::{Digest, Error, Result, manifest::json};

/// All but what a file name may have without a doubt.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_');
/// A longer name gets a digest in its place.
const LONGEST: usize = 200;

/// What a reference leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The reference in full, like `docker.io/library/alpine:latest`.
    pub reference: String,
    /// The manifest's digest, where there was a manifest.
    pub manifest: Option<Digest>,
    /// The configuration's digest: the image's id.
    pub config: Digest,
    /// The digests of the unpacked layers, top last.
    pub layers: Vec<Digest>,
    /// The file or directory that it was imported from, if it was and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported_from: Option<String>,
}

/// Reads a reference, and adds what it leaves out.
pub(crate) fn parse(reference: &str) -> Result<Reference> {
    let refuse = |why: String| Error::Reference { reference: reference.chars().take(300).collect(), why };
    let parsed: Reference = reference.parse().map_err(|error| refuse(format!("{error}")))?;
    if let Some(digest) = parsed.digest() {
        digest.parse::<Digest>()?;
    }
    Ok(parsed)
}

/// What a reference is in full, to look it up: [`parse`] compiles an expression, for longer than a VM boots. What is no reference, or a
/// rare one, may become what no image here is called. Source: Docker's familiar names, `splitDockerDomain` of the distribution project.
pub(super) fn in_full(reference: &str) -> String {
    let host = reference.split_once('/').map(|(first, _)| first);
    let mut full = match host {
        Some(host) if host.contains(['.', ':']) || host == "localhost" => reference.to_owned(),
        Some(_) => format!("docker.io/{reference}"),
        None => format!("docker.io/library/{reference}"),
    };
    let name = full.rsplit('/').next().unwrap_or_default();
    if !name.contains([':', '@']) {
        full.push_str(":latest");
    }
    full
}

pub(super) fn path(store: &Store, reference: &str) -> PathBuf {
    let escaped = utf8_percent_encode(reference, ESCAPED).to_string();
    let short = escaped.len() <= LONGEST && !escaped.starts_with('.');
    let name = if short { escaped } else { Digest::of(reference.as_bytes()).file_name() };
    store.path.join("refs").join(name)
}

pub(super) fn read(store: &Store, reference: &str) -> Result<Option<Record>> {
    let path = path(store, reference);
    let what = path.display().to_string();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(what)(error)),
    };
    json(&bytes, &what).map(Some)
}

pub(super) fn all(store: &Store) -> Result<Vec<Record>> {
    let path = store.path.join("refs");
    let what = || path.display().to_string();
    let mut records = Vec::new();
    for entry in fs::read_dir(&path).map_err(Error::io(what()))? {
        let path = entry.map_err(Error::io(what()))?.path();
        match fs::read(&path) {
            Ok(bytes) => records.push(json::<Record>(&bytes, &path.display().to_string())?),
            // Removed just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(path.display().to_string())(error)),
        }
    }
    records.sort_by(|a, b| a.reference.cmp(&b.reference));
    Ok(records)
}

/// Writes it in the place of what the reference led to before. The store must be locked.
pub(super) fn write(store: &Store, record: &Record) -> Result<()> {
    let bytes = serde_json::to_vec(record).map_err(io::Error::other).map_err(Error::io("a reference"))?;
    store.write(&path(store, &record.reference), &bytes)
}
