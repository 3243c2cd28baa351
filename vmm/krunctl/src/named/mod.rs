//! VMs that stay: each has a name, a directory with its state, and while it runs a process that keeps it. There is no daemon.
//! `exec` also reaches the VMs of containerd's sandboxes.

mod client;
mod log;
mod sandbox;
mod state;

pub mod cp;
pub mod create;
pub mod delete;
pub mod exec;
pub mod keeper;
pub mod logs;
pub mod ls;
pub mod start;
pub mod stop;

use anyhow::{Context, Result};
use clap::Args;

use crate::bundle::Bundle;
pub use state::{exists, name, place};

/// The name of a VM.
#[derive(Args)]
#[group(skip)]
pub struct Name {
    /// The VM's name
    #[arg(value_name = "NAME", value_parser = state::name)]
    pub name: String,
}

/// The bundle of the VM of this name, which no other process has meanwhile.
///
/// # Errors
/// When another has it.
fn bundle_of(name: &str) -> Result<Bundle> {
    Bundle::of(id_of(name), |pid| {
        format!("another command has it now, process {pid}; try again when that has ended")
    })
    .with_context(|| name.to_owned())
}

/// The id of the sandbox and the container of the VM of this name.
fn id_of(name: &str) -> String {
    format!("vm-{name}{}", state::place())
}
