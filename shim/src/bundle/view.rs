//! A container's files as it will find them, and what its mounts take from the directories that they are on.

use std::path::Path;

use oci_spec::runtime::Mount;

use super::{GuestBundle, Volume};
use crate::files::pin::{Found, Inside, Mounted, Pinned};

/// The files of container `id`, whose root is `rootfs`. A tmpfs that says no mode gets that of the directory that it is mounted on, as
/// with runc.
pub fn files(bundle: &mut GuestBundle, id: &str, rootfs: Pinned) -> Inside {
    let volumes: Vec<_> = bundle
        .volumes
        .iter()
        .enumerate()
        .map(|(number, volume)| (volume.path_in_guest(id, number), volume))
        .collect();
    let mut files = Inside::new(rootfs);
    for mount in bundle.spec.mounts_mut().iter_mut().flatten() {
        let source = mount.source().clone().unwrap_or_default();
        let mounted = match volumes.iter().find(|(path, _)| source.starts_with(path)) {
            // A part of a volume, in its place.
            Some((path, Volume::Files(_))) if source != Path::new(path) => continue,
            // What is mounted in it is there as well.
            Some((_, Volume::Files(volume))) if volume.recursive && !volume.follows => {
                Mounted::Hosts(volume.source.clone())
            }
            Some(_) | None => Mounted::Guests,
        };
        let destination = mount.destination().clone();
        if is_tmpfs_without_mode(mount)
            && let Found::Directory(mode) = files.look(&destination)
        {
            let options = mount.options().clone().unwrap_or_default();
            mount.set_options(Some([options, vec![format!("mode={:o}", mode & 0o7777)]].concat()));
        }
        files.mount(&destination, mounted);
    }
    files
}

fn is_tmpfs_without_mode(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("tmpfs")
        && !mount.options().iter().flatten().any(|option| option.starts_with("mode="))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use serde_json::json;

    use super::*;

    #[test]
    fn a_tmpfs_has_the_mode_of_its_directory_unless_it_says_one() {
        let top = tempfile::tempdir().unwrap();
        for (name, mode) in [("scratch", 0o2750), ("said", 0o700)] {
            fs::create_dir(top.path().join(name)).unwrap();
            fs::set_permissions(top.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let spec = json!({"ociVersion": "1.0.2", "mounts": [
            {"destination": "/scratch", "type": "tmpfs", "options": ["nosuid"]},
            {"destination": "/said", "type": "tmpfs", "options": ["mode=711"]},
            {"destination": "/none", "type": "tmpfs"},
            {"destination": "/scratch/below", "type": "tmpfs"},
        ]});
        let spec = serde_json::from_value(spec).unwrap();
        let mut bundle = GuestBundle { spec, volumes: Vec::new(), disks: Vec::new(), notes: Vec::new() };
        files(&mut bundle, "c1", Pinned::open(top.path()).unwrap());
        let mounts = serde_json::to_value(&bundle.spec).unwrap()["mounts"].clone();
        assert_eq!(mounts[0]["options"], json!(["nosuid", "mode=2750"]));
        assert_eq!(mounts[1]["options"], json!(["mode=711"]));
        assert!(mounts[2].get("options").is_none() && mounts[3].get("options").is_none(), "{mounts}");
    }
}
