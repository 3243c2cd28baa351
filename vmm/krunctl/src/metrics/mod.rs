//! `krunctl metrics`: figures of this host's sandboxes, for Prometheus.
//!
//! A scrape reads what the shims have written down, and /proc. What happens between two scrapes is counted: the shims report it.

mod counted;
mod http;
mod page;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Args;
use shim::report::Reports;

use self::{counted::Counted, page::Page};
use crate::{logger, notify, signals::Signals, vm};

/// The flags of `metrics`.
#[derive(Args)]
pub struct Arguments {
    /// Where to answer GET /metrics, an address and a port
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9477")]
    listen: SocketAddr,
    /// How many sandboxes have series of their own, the oldest first; of the others there are sums only
    #[arg(long, value_name = "N", default_value_t = 500)]
    max_sandboxes: usize,
}

/// Answers until a signal ends it.
///
/// # Errors
/// When it cannot listen.
pub fn run(arguments: &Arguments) -> Result<u8> {
    logger::set(false);
    vm::check_root()?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // One makes pages.
    let runtime = runtime.enable_all().max_blocking_threads(2).build().context("start the runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let reports = Reports::take().context("taking the shims' reports")?;
        let listener = http::listen(arguments.listen).await?;
        let counted = Counted::new()?;
        let page = Page::new(counted.clone(), arguments.max_sandboxes);
        tokio::select! {
            result = hear(&reports, &counted) => result?,
            () = http::serve(listener, page) => {}
            () = notify::ready(None, "") => {}
            _ = signals.ending() => {}
        }
        Ok(0)
    })
}

/// Counts what is reported, for ever.
async fn hear(reports: &Reports, counted: &Counted) -> Result<()> {
    loop {
        // What else is written there does not count.
        if let Some(report) = reports.next().await.context("take a report")? {
            counted.count(&report);
        }
    }
}
