//! `--inject`: files of this host that are put into an image before the command runs: keys, certificates, configuration. They go to
//! the layer that takes what is written, so the image stays as it is.

use std::{
    fs::File,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, mkdirat},
};
use serde::{Deserialize, Serialize};

use crate::{named::cp::tree, root::Root, spec::mounts::parts};

/// A file or directory, where it goes, and the mode that it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Injection {
    source: PathBuf,
    target: PathBuf,
    mode: Option<u32>,
}

const FORM: &str = "it must be SOURCE:TARGET or SOURCE:TARGET:MODE, with a target that begins with / and has no .., and a mode as 0600";

impl FromStr for Injection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (source, target, mode) = parts(text).ok_or(FORM)?;
        let target = PathBuf::from(target);
        let is_plain =
            target.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if source.is_empty() || !target.is_absolute() || !is_plain || target.file_name().is_none() {
            return Err(FORM.to_owned());
        }
        let mode = mode.map(|mode| u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= tree::ALL));
        let mode = mode.map(|mode| mode.ok_or(FORM)).transpose()?;
        let source = std::path::absolute(source).map_err(|error| format!("{source}: {error}"))?;
        Ok(Injection { source, target, mode })
    }
}

/// Puts them into `root`, whose files may be an image's, and so lead anywhere.
///
/// # Errors
/// What could not be put there, naming it.
pub fn all(injections: &[Injection], root: &Root) -> Result<()> {
    for injection in injections {
        let Injection { source, target, .. } = injection;
        put(injection, root.directory())
            .with_context(|| format!("--inject {}:{}", source.display(), target.display()))?;
    }
    Ok(())
}

fn put(injection: &Injection, root: &File) -> Result<()> {
    let Injection { source, target, mode } = injection;
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else { bail!("it has no name") };
    let directory = make_all(root, parent)?;
    let (from, source_name) =
        (source.parent().unwrap_or(Path::new("/")), source.file_name().context("it has no name")?);
    let from = File::open(from).with_context(|| format!("opening {}", from.display()))?;
    tree::copy((&from, Path::new(source_name)), (&directory, Path::new(name)), tree::ALL)?;
    if let Some(mode) = mode {
        tree::set_mode((&directory, Path::new(name)), *mode)?;
    }
    Ok(())
}

/// Makes a directory with its parents inside of the root, and opens it.
fn make_all(root: &File, path: &Path) -> Result<File> {
    let mut made = open(root, Path::new("."))?;
    let mut below = PathBuf::from("/");
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        below.push(name);
        // The path is resolved from the root, so that a link in the image leads where it leads in the container.
        made = match open(root, &below) {
            Err(Errno::ENOENT) => {
                mkdirat(&made, name, Mode::from_bits_truncate(0o755))?;
                open(root, &below)?
            }
            opened => opened.with_context(|| format!("opening {}", below.display()))?,
        };
    }
    Ok(made)
}

fn open(root: &File, path: &Path) -> Result<File, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    Ok(openat2(root, path, OpenHow::new().flags(flags).resolve(resolve))?.into())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, symlink},
    };

    use super::*;

    fn injection(text: &str) -> Injection {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_wrong_is_said() {
        for text in ["", "a", "a:b", "a:/", "a:/../b", "a:/b:x", "a:/b:77777", "a:/b:600:c", ":/b"] {
            assert!(text.parse::<Injection>().unwrap_err().contains("SOURCE:TARGET"), "{text}");
        }
        assert_eq!(injection("/a:/b:0600").mode, Some(0o600));
    }

    #[test]
    fn a_file_gets_its_directories_and_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(dir.path().join("key"), "secret").unwrap();
        let source = dir.path().join("key").display().to_string();
        put(&injection(&format!("{source}:/root/.ssh/authorized_keys:0600")), &File::open(&root).unwrap())
            .unwrap();
        let made = root.join("root/.ssh/authorized_keys");
        assert_eq!(fs::read_to_string(&made).unwrap(), "secret");
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_link_of_the_image_leads_nowhere_outside() {
        let dir = tempfile::tempdir().unwrap();
        let (root, victim) = (dir.path().join("root"), dir.path().join("victim"));
        fs::create_dir_all(root.join("inside")).unwrap();
        fs::create_dir(&victim).unwrap();
        fs::write(dir.path().join("file"), "new").unwrap();
        symlink(&victim, root.join("out")).unwrap();
        symlink("/inside", root.join("in")).unwrap();
        let source = dir.path().join("file").display().to_string();
        let top = File::open(&root).unwrap();
        // The link's target is not there inside of the root.
        put(&injection(&format!("{source}:/out/file")), &top).unwrap_err();
        put(&injection(&format!("{source}:/in/file")), &top).unwrap();
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
        assert!(root.join("inside/file").exists());
    }
}
