//! containerd-shim-krun-v2: runs containers and pods in libkrun microVMs for containerd.
//!
//! One executable, several roles: `start` and `delete` are short calls of containerd's, without
//! an action it is the server of one sandbox, and `krun-anchor` makes it a container's anchor.
//!
//! A library, so that `krunctl` has the same sandbox ([`direct`]), and fuzz targets reach what is fed from outside; [`main`]
//! is the executable.

// Tests make and look at files of their own. The lint holds the code itself, which is checked without its tests as well.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

#[macro_use]
pub mod failpoint;

mod bundle;
mod cgroup;
mod clients;
mod config;
pub mod direct;
mod entry;
mod error;
mod events;
mod files;
pub mod fuzz;
mod hooks;
mod host;
mod id;
mod lock;
mod network;
pub mod pool;
mod record;
pub mod report;
mod sandbox;
mod service;
pub mod status;
mod stdio;
mod task;
mod warnings;

use std::{env, process::ExitCode};

use entry::{delete, info, server, start};
use id::RUNTIME;

/// The executable, in the role that its arguments name.
pub fn main() -> ExitCode {
    let args: Vec<_> = env::args_os().collect();
    if args.get(1).is_some_and(|role| role == host::anchor::NAME) {
        return host::anchor::main();
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows stderr to the caller when the call fails.
            eprintln!("{RUNTIME}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[std::ffi::OsString]) -> error::Result<()> {
    let flags = containerd_shim::parse(args.get(1..).unwrap_or_default())
        .map_err(|e| error::Error::invalid(e.to_string()))?;
    if flags.version {
        println!("{RUNTIME}:\n  Version: {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    if flags.info {
        return info::print();
    }
    match flags.action.as_str() {
        "start" => start::start(&flags),
        "delete" => delete::delete(&flags),
        "" => server::serve(&flags),
        other => Err(error::Error::invalid(format!("unknown action {other:?}: start and delete are known"))),
    }
}
