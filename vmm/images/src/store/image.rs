//! An image in use.

use std::{fs, os::fd::AsRawFd};

use super::{Layer, Record, Store, refs};
use crate::{Error, ImageConfig, Result, manifest::configuration};
use rustix::fs::FlockOperation;

/// An image that is in the store, and stays there as long as this is kept.
#[derive(Debug)]
pub struct Image {
    record: Record,
    config: ImageConfig,
    layers: Vec<Layer>,
}

impl Image {
    /// What its reference leads to.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What it says of a container.
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// Its layers, top last, each once: as overlayfs can use them.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// What overlayfs takes as `lowerdir`: the top layer comes first. For this process, and as long as this is kept.
    pub fn lowerdir(&self) -> String {
        let path = |layer: &Layer| format!("/proc/self/fd/{}", layer.directory().as_raw_fd());
        self.layers.iter().rev().map(path).collect::<Vec<_>>().join(":")
    }

    /// None if a layer or the configuration was removed meanwhile.
    pub(super) fn open(store: &Store, record: Record) -> Result<Option<Image>> {
        let mut layers = Vec::new();
        for digest in &record.layers {
            match store.layer(digest)? {
                Some(layer) => layers.push(layer),
                None => return Ok(None),
            }
        }
        let path = store.config_path(&record.config);
        let what = path.display().to_string();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(what)(error)),
        };
        let (document, _) = configuration(&bytes, record.layers.len(), &what)?;
        let config = ImageConfig::new(&document);
        Ok(Some(Image { record, config, layers: visible(layers) }))
    }
}

/// The layers of which something can appear. overlayfs takes no layer twice, and what the upper one of two equal layers has
/// hides all of the lower one. Of its lower layers it does not see when their top directory is opaque.
fn visible(layers: Vec<Layer>) -> Vec<Layer> {
    let mut visible: Vec<Layer> = Vec::new();
    for layer in layers.into_iter().rev() {
        let opaque = layer.is_opaque();
        if visible.iter().all(|above| above.digest() != layer.digest()) {
            visible.push(layer);
        }
        if opaque {
            break;
        }
    }
    visible.reverse();
    visible
}

impl Store {
    /// Gives an image its reference. `layers` are its layers, each of them once or more; they are locked until it is done.
    pub(crate) fn add(&self, record: Record, config: &[u8], layers: &[Layer]) -> Result<Image> {
        debug_assert!(record.layers.iter().all(|digest| layers.iter().any(|layer| layer.digest() == digest)));
        {
            let _lock = self.lock(FlockOperation::LockShared)?;
            self.write(&self.config_path(&record.config), config)?;
            refs::write(self, &record)?;
        }
        let gone = Error::Reference { reference: record.reference.clone(), why: "removed meanwhile".into() };
        Image::open(self, record)?.ok_or(gone)
    }

    /// Gives an image that is in use one more reference.
    ///
    /// # Errors
    /// When the reference is none, or the disk's.
    pub fn tag(&self, image: &Image, reference: &str) -> Result<Image> {
        let gone = |reference: &str| Error::Reference {
            reference: reference.to_owned(),
            why: "removed meanwhile".into(),
        };
        let record = Record { reference: refs::parse(reference)?.whole(), ..image.record.clone() };
        {
            let _lock = self.lock(FlockOperation::LockShared)?;
            // Layers in use stay, and the configuration of an image whose last reference was removed does not.
            if !self.config_path(&record.config).exists() {
                return Err(gone(&image.record.reference));
            }
            refs::write(self, &record)?;
        }
        Image::open(self, record)?.ok_or_else(|| gone(reference))
    }
}
