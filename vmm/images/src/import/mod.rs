//! Imports images from files: archives of `docker save`, and OCI image layouts as directories or archives.

mod docker;
mod layout;
mod source;
#[cfg(test)]
mod tests;

use std::path::Path;

use crate::{
    Digest, Error, Image, Layer, Record, Result, Store,
    limits::{Budget, MAX_IMAGES, MAX_LAYERS},
    manifest::{Blob, configuration},
    store::{Fetched, parse},
};
use source::Source;

/// An image in a file.
struct Found {
    /// What the file calls it, maybe nothing.
    names: Vec<String>,
    manifest: Option<Digest>,
    config: Vec<u8>,
    /// Where its layers are, top last, and what they were declared with.
    layers: Vec<(String, Option<Blob>)>,
}

impl Store {
    /// Imports the images in the file or directory `path`, for linux/amd64, with at most `unpacked` bytes together when unpacked.
    ///
    /// They get the names that the file has for them, or else `name`, which is then for the only image. One that has no name
    /// at all is called `localhost/imported:` and the first digits of its id.
    pub fn import(&self, path: impl AsRef<Path>, name: Option<&str>, unpacked: u64) -> Result<Vec<Image>> {
        let path = path.as_ref();
        let source = Source::open(self, path, unpacked)?;
        let found = match (source.has("oci-layout")?, source.has("manifest.json")?) {
            (true, _) => layout::images(&source)?,
            (false, true) => docker::images(&source)?,
            (false, false) => return Err(source.no_image("neither oci-layout nor manifest.json is in it")),
        };
        if found.len() > MAX_IMAGES {
            return Err(source.no_image(&format!("{} images; at most {MAX_IMAGES} are allowed", found.len())));
        }
        if let (Some(_), [_, _, ..]) = (name, found.as_slice()) {
            return Err(source.no_image(&format!("{} images, but one name is given", found.len())));
        }
        let mut images = Vec::new();
        let budget = Budget::new(unpacked);
        for mut found in found {
            match name {
                Some(name) => found.names = vec![name.to_owned()],
                None => found.names.iter().try_for_each(|name| may_name(name))?,
            }
            images.extend(self.import_one(&source, found, &budget)?);
        }
        Ok(images)
    }

    fn import_one(&self, source: &Source, found: Found, budget: &Budget) -> Result<Vec<Image>> {
        let config = Digest::of(&found.config);
        let names = match found.names.as_slice() {
            [] => &[format!("localhost/imported:{}", &config.hex()[..12])],
            names => names,
        };
        let names = names.iter().map(|name| Ok(parse(name)?.whole())).collect::<Result<Vec<_>>>()?;
        if found.layers.len() > MAX_LAYERS {
            return Err(Error::TooManyLayers(found.layers.len()));
        }
        let what = format!("the configuration {config}");
        let (_, diff_ids) = configuration(&found.config, found.layers.len(), &what)?;
        let mut layers: Vec<Layer> = Vec::new();
        for (diff_id, (name, blob)) in diff_ids.iter().zip(found.layers) {
            if layers.iter().any(|layer| layer.digest() == diff_id) {
                continue;
            }
            layers.push(match self.layer(diff_id)? {
                Some(layer) => layer,
                None => {
                    let (packed, size) = source.get(&name)?;
                    if let Some(blob) = &blob {
                        blob.check_size(size)?;
                    }
                    self.unpack(diff_id, Fetched { packed, blob }, budget)?
                }
            });
        }
        let record = |reference| Record {
            reference,
            manifest: found.manifest.clone(),
            config: config.clone(),
            layers: diff_ids.clone(),
            imported_from: Some(source.path().display().to_string()),
        };
        names.into_iter().map(|name| self.add(record(name), &found.config, &layers)).collect()
    }
}

/// Refuses a name that a file must not give: one with a digest, which is not looked at here, and one of a host that no registry
/// has, with which our users name images of their own. Source: RFC 2606, section 2.
fn may_name(name: &str) -> Result<()> {
    let parsed = parse(name)?;
    let why = match (parsed.digest(), parsed.registry().rsplit('.').next()) {
        (Some(_), _) => "a file must not give an image a name with a digest",
        (None, Some("invalid")) => "a file must not give an image the name of a host in .invalid",
        _ => return Ok(()),
    };
    Err(Error::Reference { reference: name.chars().take(300).collect(), why: why.to_owned() })
}
