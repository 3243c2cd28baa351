//! Which root a container gets: the host's snapshot by virtiofs, an overlay on a disk of the VM's, or a file system of its own.

use std::path::{Component, Path, PathBuf};

use containerd_shim_protos::types::mount::Mount;
use guest_protocol::api;

use crate::{
    bundle::{Role, Root},
    config::Roots,
    error::{Error, Result},
    files::{
        mount::{Mounted, ReadOnly, files_of, lower_of},
        pin::Pinned,
        root_disk::RootDisk,
        share::SharedRoot,
    },
    sandbox::host::{GuestRoot, RootRequest, Snapshot},
};

/// File systems that a guest mounts by itself when a snapshot is one: those of libkrunfw's kernel.
const IMAGES: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// Makes the rootfs that is wanted of `mounts`; without them it is at `root` already.
///
/// # Errors
/// What could not be mounted or made; `INVALID_ARGUMENT` for what cannot be as it is wanted.
pub fn make(mounts: &[Mount], root: &Root, wanted: &RootRequest) -> Result<Snapshot<Vec<Mounted>>> {
    if wanted.roots == Roots::Virtiofs && wanted.has_upper != Some(true) {
        return shared(mounts, root);
    }
    if let Some(snapshot) = image_of(mounts, wanted)? {
        return image(&mounts[0], snapshot, root, wanted);
    }
    if wanted.has_upper == Some(false) {
        return shared(mounts, root);
    }
    let must_be = wanted.roots == Roots::Block || wanted.has_upper == Some(true);
    let (image, directory) = match lower_of(mounts) {
        Ok(lower) => lower,
        Err(error) if must_be => return Err(error),
        Err(_) => return shared(mounts, root),
    };
    let layers =
        files_of(&image).map_err(|e| Error::internal("look at the layers of the rootfs").because(e))?;
    if layers.is_none() && !must_be {
        return shared(mounts, root);
    }
    let (mounts, seen) = Mounted::rootfs(&image, &root.bundle, &root.path)?;
    let disk = match wanted.has_upper {
        Some(_) => None,
        None => Some(upper(&directory, wanted)?),
    };
    let guest = GuestRoot {
        shared: match layers {
            Some(layers) => SharedRoot::Layers(layers),
            None => SharedRoot::Rootfs(seen.clone(), ReadOnly::All),
        },
        // A pod's containers find nothing again: the pod is made anew.
        upper: match wanted.role {
            Role::Lone => api::Upper::UPPER_KEPT,
            Role::Sandbox | Role::Member => api::Upper::UPPER_SCRATCH,
        },
        image: None,
    };
    Ok(Snapshot { mounts, root: seen, disk, guest })
}

/// A rootfs that the guest reaches by virtiofs.
fn shared(mounts: &[Mount], root: &Root) -> Result<Snapshot<Vec<Mounted>>> {
    let (mounts, root) = match mounts {
        [] => (Vec::new(), root.open()?),
        mounts => Mounted::rootfs(mounts, &root.bundle, &root.path)?,
    };
    Ok(Snapshot { mounts, guest: GuestRoot::shared(root.clone()), root, disk: None })
}

/// The disk for what a sandbox's containers write, in the directory of its snapshot.
fn upper(directory: &Path, wanted: &RootRequest) -> Result<RootDisk> {
    let snapshot = Pinned::open_directory(directory)
        .map_err(|e| Error::internal(format!("open the snapshot {}", directory.display())).because(e))?;
    RootDisk::upper(&snapshot, wanted.size_mib, wanted.role == Role::Lone)
}

/// The snapshot, when it is a file system in a file or on a device, which this container may write to.
fn image_of(mounts: &[Mount], wanted: &RootRequest) -> Result<Option<Pinned>> {
    let [mount] = mounts else { return Ok(None) };
    let path = PathBuf::from(&mount.source);
    let is_plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    if !IMAGES.contains(&mount.type_.as_str())
        || !is_plain
        || mount.options.iter().any(|option| option == "ro")
    {
        return Ok(None);
    }
    let snapshot = Pinned::open(&path)
        .map_err(|e| Error::internal(format!("open the snapshot {}", path.display())).because(e))?;
    let is_device = snapshot.is_device().map_err(|e| Error::internal("look at the snapshot").because(e))?;
    // The guest reaches no devices of the host through the share, and a VM that runs gets no new disk.
    Ok((!is_device || wanted.role == Role::Lone).then_some(snapshot))
}

/// A rootfs that is a file system of the guest's own. The host never mounts it.
fn image(
    mount: &Mount,
    snapshot: Pinned,
    root: &Root,
    wanted: &RootRequest,
) -> Result<Snapshot<Vec<Mounted>>> {
    let nothing = Mount {
        type_: "tmpfs".to_owned(),
        source: "tmpfs".to_owned(),
        options: ["ro", "mode=755", "size=4k"].map(str::to_owned).to_vec(),
        ..Mount::default()
    };
    let (mounts, seen) = Mounted::rootfs(&[nothing], &root.bundle, &root.path)?;
    let in_file = wanted.role != Role::Lone;
    let of_the_hosts = |option: &&String| !matches!(option.as_str(), "loop" | "rw");
    let options: Vec<_> = mount.options.iter().filter(of_the_hosts).map(String::as_str).collect();
    let image =
        api::Image { type_: mount.type_.clone(), options: options.join(","), in_file, ..Default::default() };
    let (shared, disk) = match in_file {
        true => (SharedRoot::Image(snapshot), None),
        false => (SharedRoot::Disk, Some(RootDisk::of_snapshot(&snapshot, true)?)),
    };
    let guest = GuestRoot { shared, upper: api::Upper::UPPER_SHARE, image: Some(image) };
    Ok(Snapshot { mounts, root: seen, disk, guest })
}
