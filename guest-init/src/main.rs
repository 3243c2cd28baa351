//! PID 1 of the microVM. It sets the exit status of a VM that dies, dials the host, mounts, and then serves the guest API
//! until the control connection ends, which ends the VM.
//!
//! PID 1 has one thread and must never have more: containers are made in forks of it ([`process::fork`]), and threads do
//! not survive a fork. So nothing here may use tokio's blocking pool.
//!
//! A folder for each subject, whose first lines name its RPCs: [`boot`], [`vm`], [`rpc`], [`container`], [`process`],
//! [`io`], [`net`], [`cgroup`] and [`logs`].

// A kernel without a console starts PID 1 with fds 0-2 closed, and there is no /dev/null yet: Rust's own start-up code
// would abort. So the entry point is C's.
#![cfg_attr(not(test), no_main)]

mod boot;
mod cgroup;
mod container;
mod io;
mod logs;
mod net;
mod process;
mod rpc;
mod vm;

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result};
use guest_protocol::boot::{BootConfig, FILE_NAME, VSOCK_PORT};

use crate::boot::{dial, mounts, system};
use crate::rpc::serve;
use crate::vm::power;

/// The kernel's `/init.krun`.
#[cfg(not(test))]
// SAFETY: the one symbol of this name: `no_main` leaves the C library's start-up code without it.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: libc::c_int, _argv: *const *const libc::c_char) -> libc::c_int {
    match std::process::id() {
        1 => pid1(),
        // A hook of a container's.
        _ => container::hook::main(std::env::args_os()).unwrap_or(1),
    }
}

/// Runs PID 1. Never returns in a VM: any way out ends the VM.
#[cfg_attr(test, allow(dead_code))]
fn pid1() -> libc::c_int {
    power::set_exit_status(guest_protocol::boot::SENTINEL_STATUS);
    system::ignore_sigpipe();
    let outcome = catch_unwind(AssertUnwindSafe(run));
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(err)) => power::last_words(&format!("{err:#}")),
        Err(_) => power::last_words("PID 1 panicked"),
    }
    power::off()
}

fn run() -> Result<()> {
    let config = read_boot_file()?;
    let dials = dial::start(VSOCK_PORT)?;
    mounts::mount_all()?;
    power::log_panics();
    system::prepare()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("make the runtime")?.block_on(
        async move {
            let (control, streams) = dials.introduce(config.nonce).await?;
            serve::serve(control, streams, config.debug).await
        },
    )
}

fn read_boot_file() -> Result<BootConfig> {
    let path = format!("/{FILE_NAME}");
    let text = std::fs::read(&path).with_context(|| format!("read {path}"))?;
    serde_json::from_slice(&text).with_context(|| format!("parse {path}"))
}
