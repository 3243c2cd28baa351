//! What several tests need: layers, and images of them.

use std::io::Write;

use crate::{Digest, manifest::Blob};

/// A layer of these files.
pub(crate) fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        header.set_cksum();
        archive.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A configuration for these unpacked layers.
pub(crate) fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["serve"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    config.to_string().into_bytes()
}

pub(crate) fn blob(bytes: &[u8]) -> Blob {
    Blob { digest: Digest::of(bytes), size: bytes.len() as u64 }
}

/// A manifest of a configuration and packed layers.
pub(crate) fn manifest(config: &Blob, layers: &[Blob]) -> Vec<u8> {
    let descriptor = |media_type: &str, blob: &Blob| {
        let (digest, size) = (&blob.digest, blob.size);
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": size})
    };
    let layer = |blob| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blob);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    });
    manifest.to_string().into_bytes()
}

/// An index of manifests for these platforms.
pub(crate) fn index(manifests: &[(&str, &Blob)]) -> Vec<u8> {
    let entry = |(architecture, blob): &(&str, &Blob)| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": blob.digest, "size": blob.size,
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let entries: Vec<_> = manifests.iter().map(entry).collect();
    serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string().into_bytes()
}

/// Only root can unpack layers.
pub(crate) fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: images in a store: needs root");
    }
    root
}
