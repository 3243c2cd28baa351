//! The documents that lead to an image's layers: index, manifest and configuration. Each is checked before it is believed.

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use serde::Deserialize;

use crate::{
    Digest, Error, Result,
    limits::{MAX_DOCUMENT, MAX_LAYERS},
};

const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYERS: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

/// Bytes that are named by their digest.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub digest: Digest,
    /// The most bytes that are read of it.
    pub size: u64,
}

impl Blob {
    /// A document: read as a whole, so it must be small.
    pub fn document(descriptor: &Descriptor) -> Result<Blob> {
        let blob = Blob::layer(descriptor)?;
        if blob.size > MAX_DOCUMENT {
            return Err(Error::DocumentSize { what: blob.digest.to_string(), size: blob.size });
        }
        Ok(blob)
    }

    fn layer(descriptor: &Descriptor) -> Result<Blob> {
        Ok(Blob { digest: descriptor.digest().as_ref().parse()?, size: descriptor.size() })
    }

    /// Fails unless these are its bytes.
    pub fn check(&self, bytes: &[u8]) -> Result<()> {
        let what = || self.digest.to_string();
        self.check_size(bytes.len() as u64)?;
        self.digest.check(Digest::of(bytes), what)
    }

    /// Fails unless it has `found` bytes.
    pub fn check_size(&self, found: u64) -> Result<()> {
        let what = self.digest.to_string();
        match found.cmp(&self.size) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(Error::Truncated { what, wanted: self.size, found }),
            std::cmp::Ordering::Greater => Err(Error::TooLong { what, allowed: self.size }),
        }
    }
}

/// What a reference leads to.
pub(crate) enum Document {
    Image(Manifest),
    Index(Box<ImageIndex>),
}

/// What an image consists of.
pub(crate) struct Manifest {
    pub config: Blob,
    /// The layers, top last.
    pub layers: Vec<Blob>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index; `what` names it.
    pub fn parse(bytes: &[u8], what: &str) -> Result<Document> {
        let bad = |why: String| Error::Document { what: what.to_owned(), why };
        let shape: Shape = json(bytes, what)?;
        if shape.schema_version != Some(2) {
            return Err(bad("its schemaVersion is not 2, the only one that is read".into()));
        }
        match (shape.manifests, shape.layers) {
            // Others might read it as the other one.
            (Some(_), Some(_)) => Err(bad("it has manifests and layers; only one of them is allowed".into())),
            (Some(_), None) => Ok(Document::Index(Box::new(json(bytes, what)?))),
            (None, Some(_)) => Ok(Document::Image(Manifest::new(&json(bytes, what)?, what)?)),
            (None, None) => Err(bad("it has neither manifests nor layers".into())),
        }
    }

    /// What an index leads to must be a manifest.
    pub fn image(self, what: &str) -> Result<Manifest> {
        match self {
            Document::Image(manifest) => Ok(manifest),
            Document::Index(_) => Err(Error::Document {
                what: what.to_owned(),
                why: "an index in an index; an index leads to manifests only".into(),
            }),
        }
    }
}

impl Manifest {
    fn new(manifest: &ImageManifest, what: &str) -> Result<Manifest> {
        let bad = |why: String| Error::Document { what: what.to_owned(), why };
        let of = |media_type: &MediaType, allowed: &[&str]| {
            let media_type = media_type.to_string();
            if allowed.contains(&media_type.as_str()) {
                return Ok(());
            }
            Err(bad(format!("it has {media_type:?}; allowed there are {}", allowed.join(", "))))
        };
        if manifest.layers().len() > MAX_LAYERS {
            return Err(Error::TooManyLayers(manifest.layers().len()));
        }
        of(manifest.config().media_type(), &CONFIGS)?;
        for layer in manifest.layers() {
            of(layer.media_type(), &LAYERS)?;
        }
        let layers = manifest.layers().iter().map(Blob::layer).collect::<Result<_>>()?;
        Ok(Manifest { config: Blob::document(manifest.config())?, layers })
    }
}

/// The manifest for linux/amd64 in an index. The first one counts; a variant is for newer machines.
pub(crate) fn select(index: &ImageIndex, what: &str) -> Result<Blob> {
    let manifests = index.manifests();
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform().as_ref().is_some_and(|platform| {
            let variant = platform.variant().as_deref().unwrap_or_default();
            *platform.os() == Os::Linux
                && *platform.architecture() == Arch::Amd64
                && matches!(variant, "" | "v1")
        })
    };
    // An index of one, without a platform: its configuration tells.
    let only = match manifests.as_slice() {
        [only] if only.platform().is_none() => Some(only),
        _ => None,
    };
    if let Some(found) = manifests.iter().find(fits).or(only) {
        return Blob::document(found);
    }
    let found = manifests.iter().take(32).map(|descriptor| match descriptor.platform() {
        Some(platform) => format!("{}/{}", platform.os(), platform.architecture()),
        None => "unknown".into(),
    });
    Err(Error::Platform { what: what.to_owned(), found: found.collect::<Vec<_>>().join(", ") })
}

/// Reads a configuration of an image with `layers` layers. Returns it with the digests of the unpacked layers, top last.
pub(crate) fn configuration(
    bytes: &[u8],
    layers: usize,
    what: &str,
) -> Result<(ImageConfiguration, Vec<Digest>)> {
    let document: ImageConfiguration = json(bytes, what)?;
    if *document.os() != Os::Linux || *document.architecture() != Arch::Amd64 {
        let found = format!("{}/{}", document.os(), document.architecture());
        return Err(Error::Platform { what: what.to_owned(), found });
    }
    let diff_ids = document.rootfs().diff_ids();
    if diff_ids.len() != layers {
        let why = format!("it names {} layers, but the manifest names {layers}", diff_ids.len());
        return Err(Error::Document { what: what.to_owned(), why });
    }
    let diff_ids = diff_ids.iter().map(|id| id.parse()).collect::<Result<_>>()?;
    Ok((document, diff_ids))
}

/// Reads a JSON document; `what` names it.
pub(crate) fn json<T: for<'de> Deserialize<'de>>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Document { what: what.to_owned(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str, size: u64) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":{size}}}"#, Digest::of(b""))
    }

    fn manifest(config: &str, layers: &[String]) -> String {
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","))
    }

    fn parse(text: &str) -> Result<Document> {
        Document::parse(text.as_bytes(), "it")
    }

    #[test]
    fn a_manifest_has_few_layers_of_known_types_and_a_small_configuration() {
        let (config, layer) = (descriptor(CONFIGS[0], 2), descriptor(LAYERS[1], 1 << 40));
        assert!(
            matches!(parse(&manifest(&config, &vec![layer.clone(); MAX_LAYERS])), Ok(Document::Image(image))
            if image.layers.len() == MAX_LAYERS)
        );
        let many = parse(&manifest(&config, &vec![layer.clone(); MAX_LAYERS + 1]));
        assert!(matches!(many, Err(Error::TooManyLayers(129))));
        let long = parse(&manifest(&descriptor(CONFIGS[0], MAX_DOCUMENT + 1), &[]));
        assert!(matches!(long, Err(Error::DocumentSize { .. })));
        let foreign = descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 1);
        assert!(matches!(parse(&manifest(&config, &[foreign])), Err(Error::Document { .. })));
        let chart = descriptor("application/vnd.cncf.helm.config.v1+json", 1);
        assert!(matches!(parse(&manifest(&chart, &[layer])), Err(Error::Document { .. })));
    }

    #[test]
    fn a_document_is_an_index_or_a_manifest_but_not_both() {
        let config = descriptor(CONFIGS[0], 2);
        let both = format!(r#"{{"schemaVersion":2,"manifests":[],"config":{config},"layers":[]}}"#);
        for wrong in [&both, r#"{"schemaVersion":2}"#, r#"{"schemaVersion":1,"layers":[]}"#, "[", "{}"] {
            assert!(matches!(parse(wrong), Err(Error::Document { .. })), "{wrong}");
        }
        assert!(matches!(parse(r#"{"schemaVersion":2,"manifests":[]}"#), Ok(Document::Index(_))));
    }

    fn index(platforms: &[&str]) -> ImageIndex {
        let entry = |(number, platform): (usize, &&str)| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":{number},"digest":"{}"{platform}}}"#,
                Digest::of(b"")
            )
        };
        let entries: Vec<_> = platforms.iter().enumerate().map(entry).collect();
        serde_json::from_str(&format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")))
            .unwrap()
    }

    #[test]
    fn of_an_index_the_first_for_linux_and_amd64_is_taken() {
        let platform = |os: &str, arch: &str, more: &str| {
            format!(r#","platform":{{"os":"{os}","architecture":"{arch}"{more}}}"#)
        };
        let (arm, windows) = (platform("linux", "arm64", ""), platform("windows", "amd64", ""));
        let (newer, ours) =
            (platform("linux", "amd64", r#","variant":"v3""#), platform("linux", "amd64", ""));
        let chosen = |platforms: &[&str]| select(&index(platforms), "it").map(|blob| blob.size);
        assert_eq!(chosen(&[&arm, &windows, &newer, &ours, &ours]).unwrap(), 3);
        assert_eq!(chosen(&[""]).unwrap(), 0);
        for none in [&[arm.as_str(), &windows][..], &["", ""], &[&newer], &[]] {
            assert!(matches!(chosen(none), Err(Error::Platform { .. })), "{none:?}");
        }
    }

    #[test]
    fn a_configuration_is_for_this_machine_and_has_the_manifests_layers() {
        let config = |arch: &str, ids: &str| {
            format!(
                r#"{{"architecture":"{arch}","os":"linux","rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#
            )
        };
        let id = format!("\"{}\"", Digest::of(b""));
        let read = |arch, ids| configuration(config(arch, ids).as_bytes(), 1, "it");
        assert_eq!(read("amd64", &id).unwrap().1, [Digest::of(b"")]);
        assert!(matches!(read("arm64", &id), Err(Error::Platform { .. })));
        assert!(matches!(read("amd64", ""), Err(Error::Document { .. })));
        assert!(matches!(read("amd64", r#""sha256:../..""#), Err(Error::Digest(_))));
    }

    #[test]
    fn bytes_are_a_blobs_only_with_its_size_and_digest() {
        let blob = Blob { digest: Digest::of(b"abc"), size: 3 };
        blob.check(b"abc").unwrap();
        assert!(matches!(blob.check(b"ab"), Err(Error::Truncated { .. })));
        assert!(matches!(blob.check(b"abcd"), Err(Error::TooLong { .. })));
        assert!(matches!(blob.check(b"abd"), Err(Error::Mismatch { .. })));
    }
}
