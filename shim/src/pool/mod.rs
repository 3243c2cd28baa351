//! VMs that are booted before anybody needs them. `krunctl pool` ([`keeper`]) keeps them, and a shim that needs one asks for it
//! ([`ask`]): it is then the shim's as if it had launched it. Without a pool, and whenever the pool has nothing that fits, a shim
//! boots a VM itself.
//!
//! A VM that waits has seen nothing: no container, no name, no address, not even the time. It has one NIC, whose tap is in a
//! network namespace of its own, and a share with nothing in it.
//!
//! Both sides are the host's root. A VM is given once: the pool forgets it when the shim says that it takes it, and takes it
//! back when the shim hangs up without a word, or ends.

mod ask;
mod cgroup;
pub mod keeper;
mod kind;
mod place;
mod pressure;
mod serve;
mod stock;
mod vm;
mod wire;

use std::io;

pub(crate) use ask::{Asked, Taken};
pub use wire::SOCKET;

use crate::files::state_dir;

/// How many VMs wait in the pool, booted or booting.
///
/// # Errors
/// The file system's.
pub fn waiting() -> io::Result<usize> {
    Ok(state_dir::waiting()?.len())
}
