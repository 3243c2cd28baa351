//! An OCI image layout.
//!
//! Source: https://github.com/opencontainers/image-spec/blob/main/image-layout.md

use oci_spec::image::{Arch, Descriptor, ImageIndex, Os};

use super::{Found, Source};
use crate::{
    Result,
    limits::MAX_IMAGES,
    manifest::{Blob, Document, Manifest, json, select},
};

/// Names that containerd and Docker give, in full.
const NAME: &str = "io.containerd.image.name";
/// Names of the standard: in full, or only a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The images in its index, for linux/amd64.
pub(super) fn images(source: &Source) -> Result<Vec<Found>> {
    let index: ImageIndex = json(&source.document("index.json")?, "index.json")?;
    let ours = |descriptor: &&Descriptor| match descriptor.platform() {
        Some(platform) => *platform.os() == Os::Linux && *platform.architecture() == Arch::Amd64,
        None => true,
    };
    let mut found = Vec::new();
    for descriptor in index.manifests().iter().filter(ours).take(MAX_IMAGES + 1) {
        let top = Blob::document(descriptor)?;
        let (blob, manifest) = manifest(source, top)?;
        let config = checked(source, &manifest.config)?;
        let layers = manifest.layers.into_iter().map(|blob| (path(&blob), Some(blob))).collect();
        found.push(Found { names: names(descriptor), manifest: Some(blob.digest), config, layers });
    }
    if found.is_empty() {
        // Says what there is.
        select(&index, "index.json")?;
    }
    Ok(found)
}

fn manifest(source: &Source, top: Blob) -> Result<(Blob, Manifest)> {
    let what = top.digest.to_string();
    let index = match Document::parse(&checked(source, &top)?, &what)? {
        Document::Image(manifest) => return Ok((top, manifest)),
        Document::Index(index) => index,
    };
    let chosen = select(&index, &what)?;
    let what = chosen.digest.to_string();
    let manifest = Document::parse(&checked(source, &chosen)?, &what)?.image(&what)?;
    Ok((chosen, manifest))
}

fn checked(source: &Source, blob: &Blob) -> Result<Vec<u8>> {
    let bytes = source.document(&path(blob))?;
    blob.check(&bytes)?;
    Ok(bytes)
}

fn path(blob: &Blob) -> String {
    format!("blobs/sha256/{}", blob.digest.hex())
}

fn names(descriptor: &Descriptor) -> Vec<String> {
    let annotation = |key| descriptor.annotations().as_ref().and_then(|all| all.get(key)).cloned();
    // Without a slash or colon it is only a tag.
    let full = |name: &String| name.contains(['/', ':']);
    annotation(NAME).or_else(|| annotation(REF_NAME).filter(full)).into_iter().collect()
}
