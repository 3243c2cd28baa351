//! Notices that containerd has given up a server that it never used.
//!
//! When a client goes away just after `start` has answered, containerd forgets the shim: it removes the bundle, and
//! neither calls the shim nor ends it. It renames the bundle before it removes it. Source: containerd
//! `core/runtime/v2/bundle.go`, `atomicDelete`.

#![expect(clippy::disallowed_methods, reason = "the bundle, which is containerd's")]

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
    /// The kernel's, when the bundle is gone, or the user has no inotify watch left.
    pub fn watch(id: &str) -> io::Result<Bundle> {
        let events = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        add_watch(&events, ".", WatchFlags::MOVE_SELF)?;
        // SAFETY: the AsyncFd owns the descriptor until it is dropped, and the descriptor never changes.
        let events = unsafe { AsyncFd::register_with_interest(File::from(events), Interest::READABLE) }?;
        Ok(Bundle { events, id: id.to_owned() })
    }

    /// Waits until containerd begins to remove it.
    pub async fn removed(&self) {
        // That may have happened before the watch.
        while !is_removed(env::current_dir().ok().as_deref(), &self.id) {
            let Ok(mut ready) = self.events.readable().await else { return std::future::pending().await };
            // The events are not needed: the loop reads the bundle's name again.
            let _ = self.events.get_ref().read(&mut [0; 512]);
            ready.clear_ready();
        }
    }
}

/// Removes the current directory if it is a bundle that containerd was removing: it could not while this process wrote
/// there.
pub fn remove_rest(id: &str) {
    if let Ok(path) = env::current_dir()
        && is_removed(Some(&path), id)
    {
        let _ = fs::remove_dir(path);
    }
}

/// Whether containerd has removed the bundle of `id`, which was the current directory, or does so now.
pub fn is_gone(id: &str) -> bool {
    is_removed(env::current_dir().ok().as_deref(), id)
}

/// Whether containerd is removing a bundle with this path, which has none once it is gone.
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
