//! `krunctl cp`: copies files and directories between this host and a VM, which may run meanwhile.
//!
//! The VM's files are its command's, who may put links and FIFOs anywhere, at any time. So what is in the VM is resolved inside of
//! its root, once, and below that through no link.

mod mounts;
pub mod tree;

use std::{
    fs::File,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use mounts::{Mounts, Way};

use super::{
    client::Vm,
    state::{self, Condition, State},
};
use crate::{root::Origin, table::plain, vm};

/// The flags of `cp`.
#[derive(Args)]
pub struct Arguments {
    /// What to copy: a path, or NAME:PATH for one in a VM
    #[arg(value_name = "SOURCE")]
    source: Place,
    /// Where to: a directory that is there, or a new name. One of the two is in a VM
    #[arg(value_name = "TARGET")]
    target: Place,
}

/// A path here, or in a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Here(PathBuf),
    There { vm: String, path: PathBuf },
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // As for `docker cp`: a path of this host's with a colon is written with a / before it.
        match text.split_once(':') {
            Some((name, path)) if !name.contains('/') && name != "." => {
                Ok(Place::There { vm: state::name(name)?, path: Path::new("/").join(path) })
            }
            _ if text.is_empty() => Err("it must be a path, or NAME:PATH".to_owned()),
            _ => Ok(Place::Here(text.into())),
        }
    }
}

/// Answers 0 when all is copied.
///
/// # Errors
/// What could not be copied.
pub fn run(arguments: &Arguments) -> Result<u8> {
    vm::check_root()?;
    match (&arguments.source, &arguments.target) {
        (Place::Here(from), Place::There { vm, path }) => {
            let name =
                from.file_name().with_context(|| format!("{}: it must end in a name", from.display()))?;
            let (parent, name) = (from.parent().unwrap_or(Path::new("/")), Path::new(name));
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let source = File::open(parent).with_context(|| format!("opening {}", parent.display()))?;
            let (root, mounts) = root(vm)?;
            mounts.refuse(path, Way::In)?;
            let target = target(|path| beneath(&root, path, OFlag::O_DIRECTORY), path, name)
                .with_context(|| format!("{vm}:{}", path.display()))?;
            let new = mounts::place(&root, &target.0)?.join(&target.1);
            mounts.refuse(&new, Way::In)?;
            mounts.refuse_tree(&new, from)?;
            tree::copy((&source, name), (&target.0, &target.1), tree::ALL)
                .with_context(|| format!("{} to {vm}:{}", from.display(), path.display()))?;
        }
        (Place::There { vm, path }, Place::Here(to)) => {
            let name =
                path.file_name().with_context(|| format!("{}: it must end in a name", path.display()))?;
            let (root, mounts) = root(vm)?;
            mounts.refuse(path, Way::Out)?;
            let parent = path.parent().unwrap_or(Path::new("/"));
            let source = beneath(&root, parent, OFlag::O_DIRECTORY)
                .with_context(|| format!("{vm}:{}", parent.display()))?;
            let old = mounts::place(&root, &source)?.join(name);
            mounts.refuse(&old, Way::Out)?;
            // As a link of this host's, it would lead the next copy where the VM likes.
            let is_link = tree::is_link((&source, Path::new(name)));
            if is_link.with_context(|| format!("{vm}:{}", path.display()))? {
                bail!("{vm}:{}: it is a link; name what it leads to", path.display());
            }
            let to = std::path::absolute(to)?;
            let target = target(directory, &to, Path::new(name))?;
            // A program of the VM's must not be another user's here.
            tree::copy((&source, Path::new(name)), (&target.0, &target.1), tree::HARMLESS)
                .with_context(|| format!("{vm}:{}", path.display()))?;
            for below in mounts.below(&old) {
                let below = plain(&below.display().to_string());
                eprintln!("krunctl: {vm}:{below}: a mount hides it in the VM; cp copied the hidden files");
            }
        }
        (Place::Here(from), Place::Here(to)) => {
            bail!(
                "{} and {} are on this host; one must be in a VM, as NAME:PATH",
                from.display(),
                to.display()
            )
        }
        (Place::There { vm, path }, Place::There { .. }) => {
            bail!("{vm}:{} is in a VM, as is the other; one must be on this host", path.display())
        }
    }
    Ok(0)
}

/// The root of a VM's container, as its processes see it but for its mounts, or where its files are while it does not run.
fn root(name: &str) -> Result<(File, Mounts)> {
    let state = State::open(name)?;
    let runs = state.condition()? == Condition::Running;
    let description = state.description()?;
    let root = match description.root {
        _ if runs => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { Vm::connect(&state).await?.root().await })?
        }
        Origin::Directory(path) => directory(&path).with_context(|| format!("opening the root of {name}"))?,
        Origin::Image(_) => {
            bail!("{name} does not run; of a VM with an image, files can be copied while it runs")
        }
    };
    let mounts = Mounts::of(name, &description.spec, &root);
    Ok((root, mounts))
}

fn directory(path: &Path) -> Result<File> {
    Ok(File::options().read(true).custom_flags(libc::O_DIRECTORY).open(path)?)
}

/// What is at `path` in the root.
fn beneath(root: &File, path: &Path, kind: OFlag) -> Result<File> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | kind).resolve(resolve);
    Ok(openat2(root, path, how)?.into())
}

/// The directory and the name in it that the copy gets: `path` if it is no directory, else `name` in it.
fn target(open: impl Fn(&Path) -> Result<File>, path: &Path, name: &Path) -> Result<(File, PathBuf)> {
    if let Ok(directory) = open(path) {
        return Ok((directory, name.to_owned()));
    }
    let new = path.file_name().with_context(|| format!("{}: it must end in a name", path.display()))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let directory = open(parent).with_context(|| format!("opening the directory {}", parent.display()))?;
    Ok((directory, new.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_with_a_name_is_in_a_vm() {
        let place = |text: &str| text.parse::<Place>().unwrap();
        let there = |path: &str| Place::There { vm: "web".to_owned(), path: path.into() };
        assert_eq!(place("web:/etc/hosts"), there("/etc/hosts"));
        assert_eq!(place("web:etc"), there("/etc"));
        assert_eq!(place("./web:x"), Place::Here("./web:x".into()));
        assert_eq!(place("/a:b"), Place::Here("/a:b".into()));
        assert!("".parse::<Place>().is_err() && "-x:/".parse::<Place>().is_err());
    }
}
