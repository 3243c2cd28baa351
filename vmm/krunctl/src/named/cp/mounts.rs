//! What a copy does not reach: what is mounted in a VM's container. This host sees only the root below it, so what is copied there would
//! be unseen in the container, and what comes from there would be something else.

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use serde_json::Value;

use super::beneath;
use crate::bundle;

/// The mounts of one VM's container.
pub struct Mounts {
    vm: String,
    all: Vec<Mount>,
}

struct Mount {
    /// As it was asked for.
    named: PathBuf,
    /// Where that leads in the root.
    at: PathBuf,
    kind: Kind,
}

enum Kind {
    /// A file or directory of this host.
    Volume(PathBuf),
    /// A file that krunctl made, which the container cannot write.
    Own,
    /// A file system of the guest's, of this type.
    Guests(String),
}

/// Which way a copy goes.
#[derive(Clone, Copy, PartialEq)]
pub enum Way {
    In,
    Out,
}

impl Mount {
    fn of(mount: &Value, root: &File) -> Option<Mount> {
        let named = Path::new(mount["destination"].as_str()?);
        // Where it cannot be found, the name is all there is.
        let found = beneath(root, named, OFlag::O_PATH).and_then(|found| place(root, &found));
        let kind = match (mount["type"].as_str()?, mount["source"].as_str()) {
            ("bind", Some(source)) if Path::new(source).starts_with(bundle::BASE) => Kind::Own,
            ("bind", Some(source)) => Kind::Volume(source.into()),
            (kind, _) => Kind::Guests(kind.to_owned()),
        };
        Some(Mount { named: named.to_owned(), at: found.unwrap_or_else(|_| named.to_owned()), kind })
    }

    /// The rest of the path, if it is at or below this.
    fn covers<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.strip_prefix(&self.at).or_else(|_| path.strip_prefix(&self.named)).ok()
    }
}

impl Mounts {
    /// Those in the OCI spec of the VM of this name, in its root.
    pub fn of(vm: &str, spec: &Value, root: &File) -> Mounts {
        let all = spec["mounts"].as_array().into_iter().flatten();
        Mounts { vm: vm.to_owned(), all: all.filter_map(|mount| Mount::of(mount, root)).collect() }
    }

    /// Refuses a path that is at or below a mount.
    ///
    /// # Errors
    /// When it is, saying what to do instead.
    pub fn refuse(&self, path: &Path, way: Way) -> Result<()> {
        // What .. leads to is known once the path was followed.
        if path.components().any(|part| part == Component::ParentDir) {
            return Ok(());
        }
        // Of two at one place the later hides the other.
        let covering = self.all.iter().rev().filter_map(|mount| Some((mount, mount.covers(path)?)));
        let Some((mount, rest)) = covering.min_by_key(|(_, rest)| rest.components().count()) else {
            return Ok(());
        };
        let (vm, at) = (&self.vm, mount.named.display());
        let (kind, instead) = match (&mount.kind, way) {
            (Kind::Volume(source), _) => {
                // A path that ends in / is another when it is a file's.
                let on_host: PathBuf = source.components().chain(rest.components()).collect();
                ("a volume", format!("it is {} on this host", on_host.display()))
            }
            (Kind::Own, Way::In) => ("krunctl's own file", "it is read-only".to_owned()),
            (kind, Way::In) => {
                let directory = path.parent().filter(|_| rest != Path::new("")).unwrap_or(path).display();
                (kind.name(), format!("`tar -c FILE | krunctl exec -i {vm} -- tar -x -C {directory}` does"))
            }
            (kind, Way::Out) => {
                (kind.name(), format!("`krunctl exec {vm} -- tar -c {} | tar -x` does", path.display()))
            }
        };
        bail!(
            "{vm}:{}: {at} is mounted in the VM ({kind}), where cp does not reach; {instead}",
            path.display()
        )
    }

    /// Refuses to copy a tree of this host to `path` if something in it would come to a mount below.
    ///
    /// # Errors
    /// When it would.
    pub fn refuse_tree(&self, path: &Path, source: &Path) -> Result<()> {
        for below in self.below(path) {
            let rest = below.strip_prefix(path).unwrap_or(below);
            if source.join(rest).symlink_metadata().is_ok() {
                self.refuse(below, Way::In).with_context(|| format!("{}", source.join(rest).display()))?;
            }
        }
        Ok(())
    }

    /// The mounts below a path.
    pub fn below(&self, path: &Path) -> impl Iterator<Item = &Path> {
        let all = self.all.iter().map(|mount| mount.at.as_path());
        all.filter(move |at| *at != path && at.starts_with(path))
    }
}

impl Kind {
    fn name(&self) -> &str {
        match self {
            Kind::Volume(_) => "a volume",
            Kind::Own => "krunctl's own file",
            Kind::Guests(kind) => kind,
        }
    }
}

/// Where something in `root` is, seen from there.
pub fn place(root: &File, found: &File) -> Result<PathBuf> {
    let path_of = |file: &File| {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::read_link(&path).with_context(|| format!("reading {path}"))
    };
    let (root, found) = (path_of(root)?, path_of(found)?);
    let inside = found.strip_prefix(&root).with_context(|| format!("{} has moved", found.display()))?;
    Ok(Path::new("/").join(inside))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    fn mounts(top: &Path) -> Mounts {
        fs::create_dir_all(top.join("run/app")).unwrap();
        fs::create_dir_all(top.join("data")).unwrap();
        fs::create_dir_all(top.join("etc")).unwrap();
        symlink("/run", top.join("var")).unwrap();
        let spec = json!({"mounts": [
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/var/app", "type": "bind", "source": "/srv/app"},
            {"destination": "/data", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/data", "type": "bind", "source": "/srv/data"},
            {"destination": "/etc/hosts", "type": "bind", "source": format!("{}/vm-web/hosts", bundle::BASE)},
        ]});
        Mounts::of("web", &spec, &File::open(top).unwrap())
    }

    #[test]
    fn what_a_mount_covers_is_refused_with_what_to_do_instead() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = mounts(dir.path());
        let (tar_in, tar_out) = ("tar -x -C /run/x", "krunctl exec web -- tar -c /run/x/file | tar -x");
        for (path, way, words) in [
            ("/data", Way::In, ["/data is mounted", "it is /srv/data on this host"]),
            ("/data/a/b", Way::Out, ["web:/data/a/b", "it is /srv/data/a/b on this host"]),
            ("/run/x/file", Way::In, ["/run is mounted in the VM (tmpfs)", tar_in]),
            ("/run", Way::In, ["/run is mounted in the VM (tmpfs)", "tar -x -C /run`"]),
            ("/run/x/file", Way::Out, ["/run is mounted in the VM (tmpfs)", tar_out]),
            // The inner one counts, by either of its paths.
            ("/run/app/x", Way::In, ["/var/app is mounted", "/srv/app/x"]),
            ("/var/app/x", Way::In, ["/var/app is mounted", "/srv/app/x"]),
            ("/etc/hosts", Way::In, ["krunctl's own file", "it is read-only"]),
        ] {
            let error = mounts.refuse(Path::new(path), way).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{path}: no {word:?} in {error}");
            }
        }
        for path in ["/", "/datax", "/etc/hostname", "/srv/data", "/data/../etc"] {
            mounts.refuse(Path::new(path), Way::In).unwrap();
        }
    }

    #[test]
    fn a_tree_is_refused_where_a_file_of_it_would_come_to_a_mount() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = mounts(&dir.path().join("root"));
        let etc = dir.path().join("etc");
        fs::create_dir(&etc).unwrap();
        fs::write(etc.join("hostname"), "x").unwrap();
        mounts.refuse_tree(Path::new("/etc"), &etc).unwrap();
        fs::write(etc.join("hosts"), "x").unwrap();
        let error = format!("{:#}", mounts.refuse_tree(Path::new("/etc"), &etc).unwrap_err());
        assert!(error.contains("/etc/hosts is mounted"), "{error}");
        assert_eq!(mounts.below(Path::new("/run")).collect::<Vec<_>>(), [Path::new("/run/app")]);
    }

    #[test]
    fn a_place_is_seen_from_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        symlink("/a", dir.path().join("link")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let found = beneath(&root, Path::new("/link/b"), OFlag::O_DIRECTORY).unwrap();
        assert_eq!(place(&root, &found).unwrap(), Path::new("/a/b"));
        assert_eq!(place(&root, &root).unwrap(), Path::new("/"));
    }
}
