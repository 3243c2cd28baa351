//! What `linux.cgroupsPath` names: a path (containerd's cgroupfs driver), or systemd's
//! `slice:prefix:name`.

use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// The slice of a unit that names none. Source: runc `libcontainer/cgroups/systemd/v2.go`.
const DEFAULT_SLICE: &str = "system.slice";

/// The last part of a slice's name. Source: systemd.slice(5).
const SLICE: &str = ".slice";

/// A cgroup as a spec names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupName {
    /// By its place.
    Path(PathBuf),
    /// As a unit of systemd.
    Unit {
        /// `slice:prefix:name`, with a slice.
        name: String,
        /// Where systemd puts such a unit.
        path: PathBuf,
    },
}

impl CgroupName {
    /// Understands a spec's `linux.cgroupsPath`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a path with `..`, and for a malformed `slice:prefix:name`.
    pub fn parse(path: &Path) -> Result<CgroupName> {
        let text = path.to_string_lossy();
        let invalid = |what: &str| Error::invalid(format!("linux.cgroupsPath {text}: {what}"));
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(invalid("it must not leave the hierarchy by .."));
        }
        // The unit in a path may have a colon in its name.
        let Some((slice, rest)) = text.split_once(':').filter(|_| path.is_relative()) else {
            return Ok(CgroupName::Path(path.to_owned()));
        };
        let unit = match rest.split_once(':') {
            Some((prefix, name)) if !name.is_empty() && !rest.contains('/') && !name.contains(':') => {
                if name.ends_with(SLICE) { name.to_owned() } else { format!("{prefix}-{name}.scope") }
            }
            _ => return Err(invalid("neither a path nor slice:prefix:name")),
        };
        let slice = if slice.is_empty() { DEFAULT_SLICE } else { slice };
        let parent = expand(slice).ok_or_else(|| invalid("its first part must be like a-b.slice"))?;
        Ok(CgroupName::Unit { name: format!("{slice}:{rest}"), path: parent.join(unit) })
    }

    /// Its place below the hierarchy's root.
    pub fn path(&self) -> &Path {
        match self {
            CgroupName::Path(path) | CgroupName::Unit { path, .. } => path,
        }
    }
}

/// Where a slice is: `a-b.slice` is in `a.slice`, and `-.slice` is the root. Source: systemd.slice(5).
fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(SLICE)?;
    let mut path = PathBuf::from("/");
    if name == "-" {
        return Some(path);
    }
    if name.contains('/') || name.split('-').any(str::is_empty) {
        return None;
    }
    for (end, _) in name.match_indices('-').chain([(name.len(), "")]) {
        path.push(format!("{}{SLICE}", &name[..end]));
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(named: &str) -> PathBuf {
        CgroupName::parse(Path::new(named)).unwrap().path().to_owned()
    }

    #[test]
    fn a_path_is_itself() {
        assert_eq!(
            CgroupName::parse(Path::new("/default/c1")).unwrap(),
            CgroupName::Path("/default/c1".into())
        );
        assert_eq!(path("/system.slice/a@10.0.0.1:80.service/c1").components().count(), 4);
    }

    #[test]
    fn a_unit_is_where_systemd_puts_it() {
        assert_eq!(
            path("kubepods-burstable-pod7.slice:cri-containerd:c1"),
            Path::new(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7.slice/cri-containerd-c1.scope"
            )
        );
        assert_eq!(path(":nerdctl:c1"), Path::new("/system.slice/nerdctl-c1.scope"));
        assert_eq!(path("-.slice:a:b"), Path::new("/a-b.scope"));
        assert_eq!(path("a.slice::a-b.slice"), Path::new("/a.slice/a-b.slice"));
        let CgroupName::Unit { name, .. } = CgroupName::parse(Path::new(":nerdctl:c1")).unwrap() else {
            panic!()
        };
        assert_eq!(name, "system.slice:nerdctl:c1");
    }

    #[test]
    fn what_only_looks_like_a_name_is_refused() {
        for bad in [
            "a:b",
            "a:b:c",
            "a.slice:b:",
            "a--b.slice:b:c",
            "../x.slice:b:c",
            "a.slice:b:c/../d",
            "a.slice:b:c:d",
            "/default/../../c1",
        ] {
            let error = CgroupName::parse(Path::new(bad)).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }
}
