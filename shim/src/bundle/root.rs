//! Where a container's rootfs is.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use oci_spec::runtime::Spec;

use crate::{
    error::{Error, Result},
    files::pin::{Pinned, beneath},
};

/// The rootfs of the container of `spec`, whose bundle is in the directory `bundle`.
///
/// A snapshot `is_mounted` there by us. The host must not lose what else it has at a path of the bundle's choice, so that
/// path must be below the bundle then, and lead through no link. Without a snapshot nothing is mounted, and Docker and `ctr
/// --rootfs` name any directory.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the path.
pub fn rootfs_of(spec: &Spec, bundle: &Path, is_mounted: bool) -> Result<PathBuf> {
    let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    if is_mounted {
        let refuse = |why: String| Error::invalid(format!("root.path {}: {why}", root.display()));
        let is_below = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if !root.components().all(is_below) || root.file_name().is_none() {
            return Err(refuse(
                "a snapshot is mounted there, so it must be a path below the bundle".to_owned(),
            ));
        }
        check_links(bundle, &root)
            .map_err(|e| refuse(format!("a snapshot is mounted there, and it cannot be: {e}")))?;
    }
    Ok(bundle.join(root))
}

/// Refuses links on the way from `bundle` down to `path`. What is not there yet is none.
fn check_links(bundle: &Path, path: &Path) -> io::Result<()> {
    let bundle = Pinned::open_directory(bundle)?;
    let mut way: Vec<_> = path.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    way.reverse();
    for part in way {
        match beneath(&bundle, part) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use serde_json::json;

    use super::*;

    fn rootfs(bundle: &Path, root: &str, is_mounted: bool) -> Result<PathBuf> {
        let spec = json!({"ociVersion": "1.0.2", "root": {"path": root}});
        rootfs_of(&serde_json::from_value(spec).unwrap(), bundle, is_mounted)
    }

    #[test]
    fn a_snapshot_is_mounted_below_its_bundle_only() {
        let top = tempfile::tempdir().unwrap();
        let bundle = top.path().join("bundle");
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        fs::create_dir_all(top.path().join("elsewhere")).unwrap();
        symlink("../elsewhere", bundle.join("link")).unwrap();
        symlink("rootfs", bundle.join("inside")).unwrap();
        for root in ["rootfs", "./rootfs", "rootfs/", "new", "rootfs/new/newer"] {
            assert_eq!(rootfs(&bundle, root, true).unwrap(), bundle.join(root));
        }
        let absolute = bundle.join("rootfs").display().to_string();
        for root in
            ["", ".", "..", "../elsewhere", "rootfs/..", "/", "/srv", &absolute, "link", "link/new", "inside"]
        {
            let error = rootfs(&bundle, root, true).unwrap_err().to_string();
            assert!(error.starts_with(&format!("root.path {root}: a snapshot is mounted there")), "{error}");
        }
    }

    #[test]
    fn where_nothing_is_mounted_any_directory_is_a_root() {
        assert_eq!(rootfs(Path::new("/bundle"), "/srv/root", false).unwrap(), Path::new("/srv/root"));
        assert_eq!(rootfs(Path::new("/bundle"), "rootfs", false).unwrap(), Path::new("/bundle/rootfs"));
    }
}
