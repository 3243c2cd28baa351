//! `krunctl ls` and `status`: how the VMs are.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use super::{
    Name,
    client::Vm,
    state::{Condition, State},
};
use crate::{
    out,
    table::{self, Format},
    vm,
};

/// The flags of `ls`.
#[derive(Args)]
pub struct Arguments {
    /// Say more of each
    #[arg(short = 'v', long)]
    verbose: bool,
    /// As a table, or as JSON
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Prints a line for each VM.
///
/// # Errors
/// When the state cannot be read.
pub fn run(arguments: &Arguments) -> Result<u8> {
    vm::check_root()?;
    let all: Vec<Value> = State::all()?.iter().map(show).collect();
    if arguments.format == Format::Json {
        out::line(serde_json::to_string_pretty(&all)?)?;
        return Ok(0);
    }
    let columns: &[&str] = match arguments.verbose {
        true => &["name", "state", "status", "cpus", "memory", "pid", "root", "command"],
        false => &["name", "state", "status", "root"],
    };
    table::print(columns, &all)?;
    Ok(0)
}

/// Prints what is known of one VM, as JSON. Answers 0 when it runs, and 3 when it does not, as `systemctl status` does.
///
/// # Errors
/// When there is none.
pub fn status(name: &Name) -> Result<u8> {
    vm::check_root()?;
    let shown = show(&State::open(&name.name)?);
    out::line(serde_json::to_string_pretty(&shown)?)?;
    Ok(if shown["state"] == "running" { 0 } else { 3 })
}

/// What is known of a VM. Of one whose files are broken, that.
fn show(state: &State) -> Value {
    let mut shown = json!({"name": state.name(), "status": null, "pid": null});
    match state.condition() {
        Ok(Condition::Created) => shown["state"] = "created".into(),
        Ok(Condition::Lost) => shown["state"] = "lost".into(),
        Ok(Condition::Exited(status)) => {
            shown["state"] = "exited".into();
            shown["status"] = status.into();
        }
        Ok(Condition::Running) => {
            shown["state"] = "running".into();
            shown["pid"] = keeper(state).ok().into();
        }
        Err(error) => {
            shown["state"] = "broken".into();
            shown["error"] = format!("{error:#}").into();
        }
    }
    match state.description() {
        Ok(description) => {
            shown["cpus"] = description.cpus.into();
            shown["memory"] = description.memory.into();
            shown["root"] = description.shown.into();
            shown["command"] = description.spec["process"]["args"].clone();
            shown["created"] = description.created.into();
        }
        Err(error) => {
            shown["state"] = "broken".into();
            shown["error"] = format!("{error:#}").into();
        }
    }
    shown
}

fn keeper(state: &State) -> Result<u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pids = runtime.block_on(async { Vm::connect(state).await?.pids().await });
    Ok(pids.context("asking the VM's keeper")?.0)
}
