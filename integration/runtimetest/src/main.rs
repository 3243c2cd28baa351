//! krun-runtimetest CONFIG: runs as a container's init and compares what it finds with the container's config.json: what
//! the runtime was told to do, and did not, it names, one line each. Ends with 0 when there is nothing to name.
//!
//! It is linked statically, so that it runs in any root file system.

mod capabilities;
mod cgroup;
mod config;
mod devices;
mod kernel;
mod mounts;
mod process;
mod report;

use anyhow::{Context, Result};
use config::Config;
use report::Report;
use std::process::ExitCode;

fn main() -> Result<ExitCode> {
    let path = std::env::args().nth(1).context("usage: krun-runtimetest CONFIG")?;
    let config = Config::read(&path)?;
    let mut report = Report::default();
    let checks =
        [process::check, capabilities::check, kernel::check, mounts::check, devices::check, cgroup::check];
    for check in checks {
        check(&config, &mut report)?;
    }
    print!("{report}");
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
