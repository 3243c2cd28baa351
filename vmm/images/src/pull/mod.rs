//! Pulls an image from a registry: its documents, then its layers, each unpacked once.

mod auth;
mod credentials;
#[cfg(test)]
mod fake;
mod registry;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, fs::File, path::PathBuf, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    DEFAULT_UNPACKED, Digest, Error, Image, Layer, Record, Result, Store,
    limits::Budget,
    manifest::{Blob, Document, configuration, select},
    store::{Fetched, Temp, parse},
};
use registry::Registry;

/// How many layers are on their way at a time.
const AT_A_TIME: usize = 3;

/// How to pull.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Who asks.
    pub credentials: Credentials,
    /// Without TLS, for a registry on this machine: no proxy is used, and a redirection to one with TLS fails.
    pub plain_http: bool,
    /// The most bytes that the image may have when it is unpacked.
    pub unpacked: u64,
    /// How long a connection, an answer or the next bytes of it may take.
    pub stall: Duration,
    /// How long to wait before the second try, when the registry has too much to do; each time it is doubled.
    pub backoff: Duration,
}

impl Default for PullOptions {
    fn default() -> Self {
        PullOptions {
            credentials: Credentials::docker(),
            plain_http: false,
            unpacked: DEFAULT_UNPACKED,
            stall: Duration::from_secs(30),
            backoff: Duration::from_secs(1),
        }
    }
}

/// Who asks for an image.
#[derive(Clone)]
pub enum Credentials {
    /// Nobody in particular.
    Anonymous,
    /// A user of the registry's.
    Basic {
        /// The user's name.
        user: String,
        /// The password or token.
        password: String,
    },
    /// Whom this `config.json` of Docker's names for the registry. Without such a file, nobody.
    Docker(PathBuf),
}

/// How far a layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which layer: 0 is the lowest.
    pub layer: usize,
    /// How many layers the image has.
    pub layers: usize,
    /// The digest of its packed bytes.
    pub digest: Digest,
    /// How many of these are there.
    pub done: u64,
    /// How many there are in all.
    pub total: u64,
    /// Whether it is unpacked: it is all there.
    pub unpacked: bool,
}

/// What a pull has learnt from the documents.
struct Plan {
    record: Record,
    config: Vec<u8>,
    /// The layers to have, each once.
    layers: Vec<(usize, Blob, Digest)>,
}

impl Store {
    /// Pulls the image of this reference, for linux/amd64. Layers that are there are not fetched again.
    ///
    /// Must be called on a tokio runtime with I/O and time. `progress` is called often, from several layers in turn.
    pub async fn pull(
        &self,
        reference: &str,
        options: &PullOptions,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Image> {
        let reference = parse(reference)?;
        let registry = Registry::new(&reference, options)?;
        let plan = plan(&registry, &reference, options.unpacked).await?;
        let (count, budget) = (plan.record.layers.len(), Arc::new(Budget::new(options.unpacked)));
        let fetched = plan.layers.into_iter().map(|(layer, blob, diff_id)| {
            let (registry, progress, budget) = (&registry, &progress, budget.clone());
            let report = move |blob: &Blob, done, unpacked| {
                let (digest, total) = (blob.digest.clone(), blob.size);
                progress(Progress { layer, layers: count, digest, done, total, unpacked });
            };
            async move {
                let got =
                    self.fetch(registry, &blob, &diff_id, budget, |done| report(&blob, done, false)).await?;
                report(&blob, blob.size, true);
                Ok::<Layer, Error>(got)
            }
        });
        let layers: Vec<Layer> = stream::iter(fetched).buffered(AT_A_TIME).try_collect().await?;
        let store = self.clone();
        blocking(move || store.add(plan.record, &plan.config, &layers)).await
    }

    /// A layer that is there or gets there.
    async fn fetch(
        &self,
        registry: &Registry,
        blob: &Blob,
        diff_id: &Digest,
        budget: Arc<Budget>,
        report: impl Fn(u64),
    ) -> Result<Layer> {
        if let Some(layer) = self.layer(diff_id)? {
            return Ok(layer);
        }
        let temp = Temp::new(self)?;
        let path = temp.path().join("packed");
        registry.download(blob, &path, report).await?;
        let (store, diff_id) = (self.clone(), diff_id.clone());
        blocking(move || {
            let packed = File::open(&path).map_err(Error::io(path.display().to_string()))?;
            // Its digest is checked: it came with it.
            let layer = store.unpack(&diff_id, Fetched { packed, blob: None }, &budget);
            drop(temp);
            layer
        })
        .await
    }
}

async fn plan(
    registry: &Registry,
    reference: &oci_spec::distribution::Reference,
    unpacked: u64,
) -> Result<Plan> {
    let (bytes, mut digest) = registry.named_manifest(reference).await?;
    let manifest = match Document::parse(&bytes, &digest.to_string())? {
        Document::Image(manifest) => manifest,
        Document::Index(index) => {
            let chosen = select(&index, &digest.to_string())?;
            digest = chosen.digest.clone();
            let what = digest.to_string();
            Document::parse(&registry.manifest(&chosen).await?, &what)?.image(&what)?
        }
    };
    let config = registry.document(&manifest.config).await?;
    let what = manifest.config.digest.to_string();
    let (_, diff_ids) = configuration(&config, manifest.layers.len(), &what)?;
    let packed = manifest.layers.iter().try_fold(0_u64, |sum, layer| sum.checked_add(layer.size));
    if packed.is_none_or(|packed| packed > unpacked) {
        return Err(Error::TooBig { allowed: unpacked });
    }
    let mut seen = HashSet::new();
    let layers = manifest.layers.into_iter().zip(diff_ids.clone()).enumerate();
    let layers = layers.filter(|(_, (_, diff_id))| seen.insert(diff_id.clone()));
    let layers = layers.map(|(number, (blob, diff_id))| (number, blob, diff_id)).collect();
    let record = Record {
        reference: reference.whole(),
        manifest: Some(digest),
        config: manifest.config.digest,
        layers: diff_ids,
        imported_from: None,
    };
    Ok(Plan { record, config, layers })
}

/// Does what blocks where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::io("unpacking")(std::io::Error::other(error))),
    }
}
