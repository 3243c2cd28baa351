//! krun-runtimetest CONFIG: runs as a container's init and compares what it finds with the container's config.json: what
//! the runtime was told to do, and did not, it names, one line each. Ends with 0 when there is nothing to name.
//! `krun-runtimetest files …` measures instead (`files.rs`).
//!
//! It is linked statically, so that it runs in any root file system.

mod capabilities;
mod cgroup;
mod config;
mod devices;
mod files;
mod kernel;
mod mounts;
mod process;
mod report;

use anyhow::{Context, Result};
use config::Config;
use report::Report;
use std::process::ExitCode;

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("usage: krun-runtimetest CONFIG, or files NAME=DIRECTORY…")?;
    if path == "files" {
        return files::run(arguments).map(|()| ExitCode::SUCCESS);
    }
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
