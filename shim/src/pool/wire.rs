//! What a shim and the pool say to each other, over a unix socket that root alone reaches: the shim what it wants ([`Kind`], a line
//! of JSON), the pool what it has ([`Offer`], with descriptors), the shim [`TAKE`]; the pool hangs up when it has nothing.

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use vm_launcher::Handle;

use crate::files::share;

#[cfg(doc)]
use super::kind::Kind;

/// Where the pool listens.
pub const SOCKET: &str = "/run/krun/pool.sock";

/// The longest message, in bytes: three paths and some numbers.
pub const LONGEST: usize = 16 * 1024;

/// By this the shim takes what it was offered.
pub const TAKE: u8 = b'+';

/// A VM that a shim may take.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// The name of its directory.
    pub name: String,
}

/// The descriptors of an offer.
pub struct Descriptors<Fd = OwnedFd> {
    pub vm: Handle<Fd>,
    pub share: share::Handle<Fd>,
    /// The network namespace that has its tap.
    pub netns: Fd,
    /// Its directory, which a later pool does not remove while this is open.
    pub directory: Fd,
}

impl Descriptors<BorrowedFd<'_>> {
    /// In the order in which they are sent.
    pub fn list(&self) -> [BorrowedFd<'_>; 10] {
        let Descriptors { vm, share, netns, directory } = self;
        [
            vm.process,
            vm.life,
            vm.stderr,
            vm.control,
            vm.streams,
            share.namespace,
            share.top,
            share.mount,
            *netns,
            *directory,
        ]
    }
}

impl Descriptors {
    /// Those of a message; none when it has another number of them.
    pub fn of(list: Vec<OwnedFd>) -> Option<Descriptors> {
        let [process, life, stderr, control, streams, namespace, top, mount, netns, directory] =
            list.try_into().ok()?;
        Some(Descriptors {
            vm: Handle { process, life, stderr, control, streams },
            share: share::Handle { namespace, top, mount },
            netns,
            directory,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::fd::{AsFd, AsRawFd},
    };

    use super::*;

    #[test]
    fn descriptors_arrive_as_what_they_were() {
        let files: Vec<OwnedFd> = (0..10).map(|_| File::open("/dev/null").unwrap().into()).collect();
        let numbers: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let Descriptors { vm, share, netns, directory } = Descriptors::of(files).unwrap();
        let lent = Descriptors {
            vm: Handle {
                process: vm.process.as_fd(),
                life: vm.life.as_fd(),
                stderr: vm.stderr.as_fd(),
                control: vm.control.as_fd(),
                streams: vm.streams.as_fd(),
            },
            share: share::Handle {
                namespace: share.namespace.as_fd(),
                top: share.top.as_fd(),
                mount: share.mount.as_fd(),
            },
            netns: netns.as_fd(),
            directory: directory.as_fd(),
        };
        assert_eq!(lent.list().map(|fd| fd.as_raw_fd()).to_vec(), numbers);
        assert!(Descriptors::of(Vec::new()).is_none());
    }
}
