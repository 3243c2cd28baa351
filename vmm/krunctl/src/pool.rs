//! `krunctl pool`: keeps booted VMs, which whoever needs a VM takes.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use shim::pool::keeper::{self, Pool};

use crate::{logger, notify, signals::Signals, vm};

/// The flags of `pool`.
#[derive(Args)]
pub struct Arguments {
    /// A configuration file besides those in /etc/krun
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Remove what a pool has left that was killed, and end
    #[arg(long, conflicts_with = "config")]
    clean: bool,
    /// Log what the pool, its vmms and their guests do
    #[arg(long)]
    debug: bool,
}

/// Keeps VMs until a signal ends it.
///
/// # Errors
/// When the configuration is wrong, or another pool runs.
pub fn run(arguments: &Arguments) -> Result<u8> {
    logger::set(arguments.debug);
    vm::check_root()?;
    if arguments.clean {
        keeper::clean()?;
        return Ok(0);
    }
    let config = arguments.config.as_deref().map(std::path::absolute).transpose()?;
    let pool = Pool::configured(config.as_deref())?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let listening = pool.listen()?;
        let ready = tokio::spawn(notify::ready(None, ""));
        listening
            .keep(async {
                signals.ending().await;
            })
            .await;
        ready.abort();
        Ok(0)
    })
}
