//! runc and krun side by side, by the box's clock.

use anyhow::Result;
use std::process::ExitCode;

pub fn run(_runs: u32) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
