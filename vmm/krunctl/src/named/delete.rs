//! `krunctl delete`: removes a VM.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use shim::failpoint;

use super::{
    bundle_of,
    state::{Condition, State},
    stop,
};
use crate::{image, vm};

/// The flags of `delete`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    name: super::Name,
    /// Kill what runs in it
    #[arg(short, long)]
    force: bool,
}

/// Answers 0 when it is gone.
///
/// # Errors
/// When it runs, or cannot be removed.
pub fn run(arguments: &Arguments) -> Result<u8> {
    vm::check_root()?;
    let state = State::open(&arguments.name.name)?;
    let _lock = state.lock()?;
    // One whose files are broken is to be removed as well.
    if let Ok(Condition::Running) = state.condition() {
        if !arguments.force {
            bail!("{} runs; `krunctl stop {0}` ends it, and -f removes it at once", state.name());
        }
        stop::stop(&state, Duration::ZERO)?;
    }
    // Nobody makes one of the same name until all is gone.
    let _bundle = bundle_of(state.name())?;
    let deleted = state.delete();
    failpoint!(blocking "command.state-deleted");
    image::release(&arguments.name.name)?;
    deleted?;
    Ok(0)
}
