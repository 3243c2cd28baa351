//! What libcontainer does not do while it makes a container, and lets hooks do: when all is mounted, and before the root becomes
//! read-only. The hooks are this executable in another role.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use libcontainer::oci_spec::runtime::Hooks;

use super::{copy_up, workdir};

/// Where this executable is.
const PATH: &str = "/init.krun";

/// The first argument of each role.
const MAKE_DIRECTORY: &str = "make-directory";
const COPY_UP: &str = "copy-up";
const COPY_UP_READ_ONLY: &str = "copy-up-read-only";

/// What is to be done in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Makes its working directory.
    MakeDirectory(PathBuf),
    /// Fills a file system in memory.
    CopyUp(copy_up::Place),
}

impl Task {
    fn arguments(&self) -> (&str, &Path) {
        match self {
            Task::MakeDirectory(path) => (MAKE_DIRECTORY, path),
            Task::CopyUp(place) if place.read_only => (COPY_UP_READ_ONLY, &place.path),
            Task::CopyUp(place) => (COPY_UP, &place.path),
        }
    }

    fn from_arguments(role: &str, path: OsString) -> Option<Task> {
        let path = PathBuf::from(path);
        match role {
            MAKE_DIRECTORY => Some(Task::MakeDirectory(path)),
            COPY_UP | COPY_UP_READ_ONLY => {
                Some(Task::CopyUp(copy_up::Place { path, read_only: role == COPY_UP_READ_ONLY }))
            }
            _ => None,
        }
    }

    fn run(&self, rootfs: &Path) -> io::Result<()> {
        match self {
            Task::MakeDirectory(path) => workdir::make(rootfs, path),
            Task::CopyUp(place) => copy_up::fill(rootfs, place),
        }
    }
}

/// The hooks that do `tasks`, in their order, in the container whose root is mounted at `rootfs`.
pub fn hooks(rootfs: &Path, tasks: &[Task]) -> Result<Option<Hooks>> {
    if tasks.is_empty() {
        return Ok(None);
    }
    let hook = |task: &Task| {
        let (role, path) = task.arguments();
        serde_json::json!({ "path": PATH, "args": [PATH, role, rootfs, path] })
    };
    let hooks: Vec<_> = tasks.iter().map(hook).collect();
    let hooks =
        serde_json::from_value(serde_json::json!({ "createContainer": hooks })).context("describe hooks")?;
    Ok(Some(hooks))
}

/// Is the hook, if this process is to be one. Answers its exit status: an errno, 1 when there is none.
pub fn main(mut args: impl Iterator<Item = OsString>) -> Option<i32> {
    let (role, rootfs, path) = (args.nth(1)?, args.next()?, args.next()?);
    let task = Task::from_arguments(role.to_str()?, path)?;
    // The container's state: who writes it must not find that nobody reads.
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    let done = task.run(Path::new(&rootfs));
    Some(done.map_or_else(|err| err.raw_os_error().unwrap_or(1), |()| 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_does_what_its_arguments_say() {
        let place = |read_only| copy_up::Place { path: "/var".into(), read_only };
        let tasks =
            [Task::CopyUp(place(true)), Task::CopyUp(place(false)), Task::MakeDirectory("/srv/x".into())];
        let hooks = hooks(Path::new("/root"), &tasks).unwrap().unwrap();
        let hooks = hooks.create_container().as_ref().unwrap();
        for (hook, task) in hooks.iter().zip(&tasks) {
            let args = hook.args().as_ref().unwrap();
            assert_eq!(hook.path(), Path::new(PATH));
            assert_eq!(args[2], "/root");
            assert_eq!(Task::from_arguments(&args[1], OsString::from(&args[3])).as_ref(), Some(task));
        }
        assert_eq!(super::hooks(Path::new("/root"), &[]).unwrap(), None);
    }

    #[test]
    fn only_its_arguments_make_it_a_hook() {
        let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>().into_iter();
        assert_eq!(main(args(&[PATH])), None);
        assert_eq!(main(args(&[PATH, "other", "/", "/x"])), None);
        assert_eq!(main(args(&[PATH, MAKE_DIRECTORY, "/no/such"])), None);
    }
}
