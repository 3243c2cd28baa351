//! Whether containerd has given up on a server that it never used.
//!
//! A client that goes away at the wrong moment makes containerd forget a shim whose `start` it has just had answered: it
//! removes the bundle, and neither calls the shim nor ends it. The bundle is then renamed first. Source: containerd
//! `core/runtime/v2/bundle.go`, `atomicDelete`.

use std::{
    env,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::io::{Interest, unix::AsyncFd};

/// Watches the bundle, which is the current directory.
pub struct Bundle {
    events: AsyncFd<File>,
    id: String,
}

impl Bundle {
    /// # Errors
    /// The kernel's, when there is nothing to watch any more, or too much is watched already.
    pub fn watch(id: &str) -> io::Result<Bundle> {
        let events = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        add_watch(&events, ".", WatchFlags::MOVE_SELF)?;
        // SAFETY: the descriptor is the AsyncFd's own until it is dropped, and always the same.
        let events = unsafe { AsyncFd::register_with_interest(File::from(events), Interest::READABLE) }?;
        Ok(Bundle { events, id: id.to_owned() })
    }

    /// Waits until it is on its way out.
    pub async fn removed(&self) {
        // It may have been before it was watched.
        while !is_removed(env::current_dir().ok().as_deref(), &self.id) {
            let Ok(mut ready) = self.events.readable().await else { return std::future::pending().await };
            // What it says does not matter: the name is looked at again.
            let _ = self.events.get_ref().read(&mut [0; 512]);
            ready.clear_ready();
        }
    }
}

/// Removes the current directory if it is a bundle on its way out, which containerd could not while this process wrote there.
pub fn remove_rest(id: &str) {
    if let Ok(path) = env::current_dir()
        && is_removed(Some(&path), id)
    {
        let _ = fs::remove_dir(path);
    }
}

/// Whether a bundle with this path, if it has one still, is being removed.
fn is_removed(bundle: Option<&Path>, id: &str) -> bool {
    let name = bundle.and_then(Path::file_name).and_then(|name| name.to_str());
    name.is_none_or(|name| name.strip_prefix('.') == Some(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_removed_under_a_hidden_name() {
        assert!(!is_removed(Some(Path::new("/run/tasks/default/a")), "a"));
        assert!(is_removed(Some(Path::new("/run/tasks/default/.a")), "a"));
        assert!(is_removed(None, "a"));
    }

    #[test]
    fn a_container_may_have_a_hidden_name_itself() {
        assert!(!is_removed(Some(Path::new("/run/tasks/default/.a")), ".a"));
    }
}
