//! Where a container's rootfs is.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::{
    error::{Error, Result},
    files::pin::Pinned,
};

/// Where the rootfs of a container is: the bundle as a descriptor, and the path from it.
#[derive(Debug, Clone)]
pub struct Root {
    /// The bundle's directory.
    pub bundle: Pinned,
    /// The path, from the bundle or absolute.
    pub path: PathBuf,
}

impl Root {
    /// Resolves a rootfs on which nothing is mounted. It may hang with the file system.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names it, when it is no directory.
    pub fn open(&self) -> Result<Pinned> {
        let opened = self.bundle.directory_from(&self.path);
        let path = self.bundle.path().join(&self.path);
        opened.map_err(|e| Error::invalid(format!("rootfs {}", path.display())).because(e))
    }
}

/// The rootfs of the container of `spec`, whose bundle is in the directory `bundle`.
///
/// A snapshot `is_mounted` there by us. The host must not lose what else it has at a path of the bundle's choice, so that
/// path must be below the bundle then, and lead through no link. Without a snapshot nothing is mounted, and Docker and `ctr
/// --rootfs` name any directory.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the path.
pub fn rootfs_of(spec: &Spec, bundle: &Path, is_mounted: bool) -> Result<Root> {
    let path = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    let bundle = Pinned::open_directory(bundle)
        .map_err(|e| Error::invalid(format!("bundle {}", bundle.display())).because(e))?;
    if is_mounted {
        let refuse = |why: String| Error::invalid(format!("root.path {}: {why}", path.display()));
        let is_below = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if !path.components().all(is_below) || path.file_name().is_none() {
            return Err(refuse(
                "a snapshot is mounted there, so it must be a path below the bundle".to_owned(),
            ));
        }
        // It is made when it is mounted. What is refused is refused here, before there is anything to undo.
        match bundle.beneath(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(refuse(format!("a snapshot is mounted there, and it cannot be: {error}")));
            }
            _ => {}
        }
    }
    Ok(Root { bundle, path })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use serde_json::json;

    use super::*;

    fn rootfs(bundle: &Path, root: &str, is_mounted: bool) -> Result<Root> {
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
            assert_eq!(rootfs(&bundle, root, true).unwrap().path, Path::new(root));
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
        let bundle = tempfile::tempdir().unwrap();
        fs::create_dir(bundle.path().join("rootfs")).unwrap();
        fs::write(bundle.path().join("file"), "").unwrap();
        let open = |root: &str| rootfs(bundle.path(), root, false).unwrap().open();
        for root in ["/", "/proc/../etc", "rootfs", "../"] {
            open(root).unwrap();
        }
        for root in ["file", "absent", "/proc/self/root"] {
            let error = open(root).unwrap_err().to_string();
            assert!(error.starts_with("rootfs /") && error.contains(root), "{error}");
        }
    }
}
