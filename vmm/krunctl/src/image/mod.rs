//! Images: `krunctl image`, and finding the one that `--image` names.

mod progress;

use std::{
    collections::HashSet,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use images::{DEFAULT_PATH, DEFAULT_UNPACKED, Digest, Image, PullOptions, Removed, Store};
use serde_json::json;

use crate::{
    named, out,
    table::{self, Format, human},
    vm,
};
use progress::Bar;

/// The host of the references that keep the images of VMs with names. No registry has it.
const KEPT: &str = "vm.krunctl.invalid";

/// What an image is called that was imported for a run, with a tag for its path.
const IMPORTED: &str = "localhost/imported-from";

/// Flags about where images come from.
#[derive(Args, Clone)]
#[group(skip)]
pub struct Source {
    /// Pull without TLS, as from a registry on this machine
    #[arg(long)]
    plain_http: bool,
}

/// The commands of `image`.
#[derive(Subcommand)]
pub enum Command {
    /// Pulls an image from a registry
    Pull {
        /// The image, as alpine:3.22 or registry.example.com/app@sha256:…
        reference: String,
        #[command(flatten)]
        source: Source,
    },
    /// Lists the images that are here
    Ls {
        /// As a table, or as JSON
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// Removes an image; what a VM uses stays as long as it does
    Rm {
        /// The image
        reference: String,
    },
    /// Imports the images of an archive (docker save, OCI) or of an OCI layout
    Import {
        /// The archive, or the layout's directory
        path: PathBuf,
        /// What to call it, if there is one image in it
        #[arg(long, value_name = "REFERENCE")]
        name: Option<String>,
    },
    /// Removes what was imported for `--image PATH`, and layers of no image, unless a VM uses them
    Prune,
}

/// Answers 0 when it is done.
///
/// # Errors
/// What could not be done.
pub fn run(command: &Command) -> Result<u8> {
    vm::check_root()?;
    let store = Store::open(DEFAULT_PATH)?;
    match command {
        Command::Pull { reference, source } => {
            let image = pull(&store, reference, source)?;
            out::line(format!("{} {}", image.record().reference, image.record().config))?;
        }
        Command::Ls { format } => list(&store, *format)?,
        Command::Rm { reference } => {
            let removed = store.remove(reference)?;
            if removed.references == 0 {
                bail!("{reference} is not here; `krunctl image ls` shows what is");
            }
            out::line(told(&removed))?;
        }
        Command::Import { path, name } => {
            for image in store.import(path, name.as_deref(), DEFAULT_UNPACKED)? {
                out::line(format!("{} {}", image.record().reference, image.record().config))?;
            }
        }
        Command::Prune => {
            release_deleted(&store)?;
            let removed = prune(&store)?;
            out::line(format!("imported images removed: {}, {}", removed.references, told(&removed)))?;
        }
    }
    Ok(0)
}

/// Lists the images, but for what only keeps those of VMs.
fn list(store: &Store, format: Format) -> Result<()> {
    let mut records = store.list()?;
    records.retain(|record| !record.reference.starts_with(KEPT));
    let sizes = store.sizes(&records)?;
    let all = records.iter().zip(sizes).map(|(record, bytes)| match format {
        Format::Json => json!({
            "reference": record.reference, "id": record.config, "size": bytes, "imported_from": record.imported_from,
        }),
        Format::Table => json!({
            "reference": record.reference, "id": record.config.hex()[..12], "size": human(bytes),
            "imported_from": record.imported_from,
        }),
    });
    let all: Vec<_> = all.collect();
    match format {
        Format::Json => out::line(serde_json::to_string_pretty(&all)?),
        Format::Table => table::print(&["reference", "id", "size", "imported_from"], &all),
    }
}

/// Removes what was imported for runs, but for what VMs with names have, and layers that nothing needs.
fn prune(store: &Store) -> Result<Removed> {
    let records = store.list()?;
    let kept: HashSet<_> = records
        .iter()
        .filter(|record| record.reference.starts_with(KEPT))
        .map(|record| (&record.config, &record.layers))
        .collect();
    let removed = store.prune(|record| {
        record.reference.starts_with(&format!("{IMPORTED}:"))
            && !kept.contains(&(&record.config, &record.layers))
    });
    Ok(removed?)
}

fn told(removed: &Removed) -> String {
    let in_use = match removed.in_use {
        0 => String::new(),
        in_use => format!(", still in use: {in_use}"),
    };
    format!("layers removed: {}, freed: {}{in_use}", removed.layers, human(removed.bytes))
}

/// Answers the image that `--image` names, which is in the store as long as it is held: it is imported if that is a path, and pulled if it
/// is not here.
///
/// # Errors
/// What could not be done.
pub fn obtain(name: &str, source: &Source) -> Result<Image> {
    let store = Store::open(DEFAULT_PATH)?;
    if is_path(name) {
        // Whatever the archive calls it: no name of a registry's may mean it later.
        let path = std::path::absolute(name)?;
        let reference =
            format!("{IMPORTED}:{}", &Digest::of(path.as_os_str().as_encoded_bytes()).hex()[..12]);
        let imported = store.import(&path, Some(&reference), DEFAULT_UNPACKED)?;
        let first = imported.into_iter().next();
        return first.with_context(|| format!("--image {name}: there is no image in it"));
    }
    match store.find(name)? {
        Some(image) => Ok(image),
        None => pull(&store, name, source).with_context(|| format!("--image {name}")),
    }
}

/// Whether this names a file rather than an image: no registry's host is empty or only dots.
fn is_path(name: &str) -> bool {
    ["/", "./", "../"].iter().any(|begin| name.starts_with(begin)) || name.ends_with(".tar")
}

fn pull(store: &Store, reference: &str, source: &Source) -> Result<Image> {
    // Its threads have ended when it is dropped: the process may enter namespaces afterwards.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let options = PullOptions { plain_http: source.plain_http, ..PullOptions::default() };
    let bar = Bar::new(io::stderr().is_terminal());
    let pulled = runtime.block_on(store.pull(reference, &options, |progress| bar.show(&progress)));
    bar.end();
    Ok(pulled?)
}

/// The reference that keeps the image of the VM of this name.
fn kept(vm: &str) -> String {
    let hex: String = vm.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{KEPT}/{hex}:kept{}", named::place())
}

/// Keeps the image of this reference, as it is now, for a VM with a name. Answers the reference that stays.
///
/// # Errors
/// When it is gone, or the disk's.
pub fn keep(reference: &str, vm: &str) -> Result<String> {
    let store = Store::open(DEFAULT_PATH)?;
    let image = store.find(reference)?.with_context(|| format!("the image {reference} is gone"))?;
    Ok(store.tag(&image, &kept(vm))?.record().reference.clone())
}

/// Lets go of the images of VMs of which nothing is left: their removal was cut short.
fn release_deleted(store: &Store) -> Result<()> {
    for record in store.list()? {
        let Some(vm) = record.reference.strip_prefix(KEPT).and_then(kept_for) else { continue };
        // Of this directory of VMs. Of another one nothing is known.
        if record.reference == kept(&vm) && !named::exists(&vm) {
            store.remove(&record.reference)?;
        }
    }
    Ok(())
}

/// The name of the VM in the rest of a reference that keeps its image.
fn kept_for(rest: &str) -> Option<String> {
    let (hex, _) = rest.strip_prefix('/')?.split_once(':')?;
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

/// Lets go of the image of a VM that is removed.
///
/// # Errors
/// The disk's.
pub fn release(vm: &str) -> Result<()> {
    if Path::new(DEFAULT_PATH).exists() {
        Store::open(DEFAULT_PATH)?.remove(&kept(vm))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_from_a_reference() {
        for path in ["/srv/image", "./layout", "../x", "alpine.tar"] {
            assert!(is_path(path), "{path}");
        }
        for reference in ["alpine", "alpine:3", "localhost:5000/a/b", "example.com/x@sha256:00"] {
            assert!(!is_path(reference), "{reference}");
        }
    }

    #[test]
    fn every_name_of_a_vm_makes_a_reference() {
        let kept = kept("Web_-1");
        assert!(kept.starts_with(&format!("{KEPT}/5765625f2d31:kept")), "{kept}");
        assert_eq!(kept_for(kept.strip_prefix(KEPT).unwrap()).as_deref(), Some("Web_-1"));
        for other in ["", "/", "/zz:kept", "/5:kept", "/57"] {
            assert_eq!(kept_for(other), None, "{other}");
        }
    }
}
