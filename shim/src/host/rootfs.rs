//! Which root a container gets: the host's snapshot by virtiofs, an overlay on a disk of the VM's, or a file system of its own.

use std::path::{Component, Path, PathBuf};

use containerd_shim_protos::types::mount::Mount;
use guest_protocol::api;

use crate::{
    bundle::{Role, Root},
    config::Roots,
    error::{Error, Result},
    files::{
        disk::{VmDisk, claim},
        mount::{Mounted, Overlay, ReadOnly, files_of},
        pin::{self, Pinned},
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
    let overlay = Overlay::of(mounts);
    let snapshot = match &overlay {
        Ok(overlay) => Some(open(overlay.snapshot)?),
        Err(_) => None,
    };
    // What a lone container wrote in an earlier VM must be found again.
    let old_disk = match &snapshot {
        Some(snapshot) if wanted.role == Role::Lone && has_disk(snapshot)? => Some(snapshot),
        _ => None,
    };
    if wanted.roots == Roots::Virtiofs && wanted.has_upper != Some(true) {
        return match old_disk {
            Some(snapshot) => Err(Error::invalid(format!(
                "rootfs = virtiofs: the container has a disk in {}, of a start with rootfs = block: use rootfs = block, or remove the disk with what is on it",
                snapshot.path().display()
            ))),
            None => shared(mounts, root),
        };
    }
    if let Some(snapshot) = image_of(mounts, wanted)? {
        return image(&mounts[0], snapshot, root, wanted);
    }
    if wanted.has_upper == Some(false) {
        return shared(mounts, root);
    }
    let must_be = wanted.roots == Roots::Block || wanted.has_upper == Some(true) || old_disk.is_some();
    let (overlay, snapshot) = match (overlay, snapshot) {
        (Ok(overlay), Some(snapshot)) => (overlay, snapshot),
        (Err(error), _) if must_be => return Err(error),
        _ => return shared(mounts, root),
    };
    on_disk(&overlay, &snapshot, root, wanted, must_be).transpose().unwrap_or_else(|| shared(mounts, root))
}

/// An overlay on a disk of the VM's, whose layers the guest mounts itself where it can. None where it cannot, and such a root need not be.
fn on_disk(
    overlay: &Overlay,
    snapshot: &Pinned,
    root: &Root,
    wanted: &RootRequest,
    must_be: bool,
) -> Result<Option<Snapshot<Vec<Mounted>>>> {
    let failed = |e| Error::internal("look at the layers of the rootfs").because(e);
    // By virtiofs, which the container had before: it is below what is written from now on.
    let written = pin::has_entries(&open(overlay.upper)?).map_err(failed)?;
    let image = overlay.read_only(written);
    let layers = files_of(&image).map_err(failed)?;
    if layers.is_none() && !must_be {
        return Ok(None);
    }
    if written && image.iter().any(|mount| mount.options.iter().any(|option| option.starts_with("uidmap="))) {
        return Err(Error::invalid(
            "rootfs = block: the container has written by virtiofs, with other owners: use rootfs = virtiofs",
        ));
    }
    let (mounts, seen) = Mounted::rootfs(&image, &root.bundle, &root.path)?;
    let disk = match wanted.has_upper {
        Some(_) => None,
        None => Some(VmDisk::upper(snapshot, wanted.size_mib, wanted.role == Role::Lone)?),
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
    Ok(Some(Snapshot { mounts, root: seen, disk, guest }))
}

/// A rootfs that the guest reaches by virtiofs.
fn shared(mounts: &[Mount], root: &Root) -> Result<Snapshot<Vec<Mounted>>> {
    if let [mount] = mounts
        && IMAGES.contains(&mount.type_.as_str())
        && Pinned::open(Path::new(&mount.source)).is_ok_and(|snapshot| claim::is_guests(&snapshot))
    {
        return Err(Error::invalid(format!(
            "rootfs = virtiofs: the kernel of a guest has written to the file system in {}, and the host does not mount it: use rootfs = block",
            mount.source
        )));
    }
    let (mounts, root) = match mounts {
        [] => (Vec::new(), root.open()?),
        mounts => Mounted::rootfs(mounts, &root.bundle, &root.path)?,
    };
    Ok(Snapshot { mounts, guest: GuestRoot::shared(root.clone()), root, disk: None })
}

/// Whether a snapshot has a disk of an earlier VM.
fn has_disk(snapshot: &Pinned) -> Result<bool> {
    VmDisk::is_there(snapshot)
        .map_err(|e| Error::internal(format!("look for a disk in {}", snapshot.path().display())).because(e))
}

/// Opens a directory of a snapshot.
fn open(path: &Path) -> Result<Pinned> {
    Pinned::open_directory(path)
        .map_err(|e| Error::internal(format!("open the snapshot {}", path.display())).because(e))
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
    let failed = |e| Error::internal(format!("look at the snapshot {}", path.display())).because(e);
    // The guest reaches no devices of the host through the share, and a VM that runs gets no new disk.
    let can_be = snapshot.is_file().map_err(failed)?
        || wanted.role == Role::Lone && snapshot.is_device().map_err(failed)?;
    Ok(can_be.then_some(snapshot))
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
        true => {
            let locked = claim::snapshot(&snapshot)
                .map_err(|e| Error::internal(format!("use the snapshot {}", mount.source)).because(e))?;
            (SharedRoot::Image(snapshot, locked), None)
        }
        false => (SharedRoot::Disk, Some(VmDisk::of_snapshot(&snapshot)?)),
    };
    let guest = GuestRoot { shared, upper: api::Upper::UPPER_SHARE, image: Some(image) };
    Ok(Snapshot { mounts, root: seen, disk, guest })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::mount::fake::mount;

    const LONE: RootRequest =
        RootRequest { roots: Roots::Auto, role: Role::Lone, size_mib: 64, has_upper: None };
    const MEMBER: RootRequest = RootRequest { role: Role::Member, has_upper: Some(true), ..LONE };

    #[test]
    fn a_file_system_that_may_be_written_is_an_image() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let of = |kind, options: &[&str], wanted| {
            image_of(&[mount(kind, file.path(), options)], &wanted).unwrap().is_some()
        };
        assert!(of("ext4", &["loop", "rw"], LONE) && of("xfs", &[], MEMBER));
        assert!(!of("ext4", &["ro"], LONE) && !of("erofs", &["loop"], LONE) && !of("bind", &[], LONE));
        assert!(image_of(&[mount("ext4", Path::new("relative"), &[])], &LONE).unwrap().is_none());
        image_of(&[mount("ext4", Path::new("/absent"), &[])], &LONE).unwrap_err();
        let two = [mount("ext4", file.path(), &[]), mount("overlay", Path::new("overlay"), &[])];
        assert!(image_of(&two, &LONE).unwrap().is_none());
    }

    /// A bundle, and a directory for a snapshot; none without root.
    fn bundle() -> Option<(tempfile::TempDir, Root)> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: what is mounted in a bundle");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        for made in ["bundle", "snapshot"] {
            fs::create_dir(dir.path().join(made)).unwrap();
        }
        let bundle = Pinned::open(&dir.path().join("bundle")).unwrap();
        Some((dir, Root { bundle, path: "rootfs".into() }))
    }

    #[test]
    fn what_a_guest_has_had_the_host_does_not_mount() {
        let Some((dir, root)) = bundle() else { return };
        let file = dir.path().join("image");
        fs::write(&file, "a file system").unwrap();
        let mounts = [mount("ext4", &file, &["loop", "rw"])];
        for (wanted, in_file) in [(LONE, false), (RootRequest { role: Role::Sandbox, ..LONE }, true)] {
            let made = make(&mounts, &root, &wanted).unwrap();
            assert_eq!(made.guest.image.as_ref().unwrap().in_file, in_file);
            assert_eq!((made.disk.is_some(), made.is_known()), (!in_file, false));
            assert!(fs::write(dir.path().join("bundle/rootfs/new"), "").is_err());
        }
        let marked = claim::is_guests(&Pinned::open(&file).unwrap());
        let virtiofs = RootRequest { roots: Roots::Virtiofs, ..LONE };
        let error = make(&mounts, &root, &virtiofs).err().unwrap().to_string();
        // In memory, files have such attributes only since Linux 6.6.
        assert!(!marked || error.contains("the host does not mount it"), "{error}");
    }

    #[test]
    fn with_other_owners_what_was_written_by_virtiofs_stays_there() {
        let dir = tempfile::tempdir().unwrap();
        for made in ["bundle", "3/fs/new", "3/work", "1/fs"] {
            fs::create_dir_all(dir.path().join(made)).unwrap();
        }
        let at = |name: &str, path: &str| format!("{name}={}", dir.path().join(path).display());
        let options = [at("upperdir", "3/fs"), at("workdir", "3/work"), at("lowerdir", "1/fs")];
        let mut overlay = mount("overlay", Path::new("overlay"), &["uidmap=0:100000:65536"]);
        overlay.options.extend(options);
        let mounts = [overlay];
        let (overlay, snapshot) = (Overlay::of(&mounts).unwrap(), open(&dir.path().join("3")).unwrap());
        let root = Root { bundle: open(&dir.path().join("bundle")).unwrap(), path: "rootfs".into() };
        assert!(on_disk(&overlay, &snapshot, &root, &LONE, false).unwrap().is_none());
        let error = on_disk(&overlay, &snapshot, &root, &LONE, true).err().unwrap().to_string();
        assert!(error.contains("with other owners"), "{error}");
    }

    #[test]
    fn a_plain_directory_is_shared_unless_it_must_not_be() {
        let Some((dir, root)) = bundle() else { return };
        let mounts = [mount("bind", &dir.path().join("snapshot"), &["rbind", "rw"])];
        let without = RootRequest { role: Role::Member, has_upper: Some(false), roots: Roots::Block, ..LONE };
        for wanted in [LONE, without] {
            let made = make(&mounts, &root, &wanted).unwrap();
            assert!(matches!(made.guest.shared, SharedRoot::Rootfs(_, ReadOnly::Nothing)));
            assert!(made.disk.is_none() && made.is_known());
        }
        for wanted in [RootRequest { roots: Roots::Block, ..LONE }, MEMBER] {
            let error = make(&mounts, &root, &wanted).err().unwrap().to_string();
            assert!(error.starts_with("rootfs = block: the snapshotter's mounts are [\"bind\"]"), "{error}");
        }
    }
}
