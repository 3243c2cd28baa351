//! An archive of `docker save` without an OCI layout: its `manifest.json` names files of the archive.
//!
//! Source: https://github.com/moby/docker-image-spec/blob/main/spec.md#combined-image-json--filesystem-changeset-format

use serde::Deserialize;

use super::{Found, Source};
use crate::{Digest, Result, limits::MAX_IMAGES, manifest::json};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

pub(super) fn images(source: &Source) -> Result<Vec<Found>> {
    let entries: Vec<Entry> = json(&source.document("manifest.json")?, "manifest.json")?;
    if entries.len() > MAX_IMAGES {
        return Err(source.no_image(&format!("{} images; at most {MAX_IMAGES} are allowed", entries.len())));
    }
    let found = |entry: Entry| {
        let config = source.document(&entry.config)?;
        if let Some(digest) = digest_in(&entry.config) {
            digest.check(Digest::of(&config), || entry.config.clone())?;
        }
        let layers = entry.layers.unwrap_or_default().into_iter().map(|name| (name, None)).collect();
        Ok(Found { names: entry.repo_tags.unwrap_or_default(), manifest: None, config, layers })
    };
    entries.into_iter().map(found).collect()
}

/// The digest that a file of a configuration is named by.
fn digest_in(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    format!("sha256:{}", last.strip_suffix(".json").unwrap_or(last)).parse().ok()
}
