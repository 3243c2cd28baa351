//! `krunctl stop`: ends a VM's command, and waits for its keeper to end.

use std::{thread, time::Duration};

use anyhow::{Result, bail};
use clap::Args;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{sync::oneshot, time::timeout};

use super::{
    client::Vm,
    state::{Condition, State},
};
use crate::{duration, vm};

/// How long a keeper may take to end once its command has. A sandbox's deletion may take 10 s for each of its parts.
const CLEAN: Duration = Duration::from_secs(60);

/// The flags of `stop`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    name: super::Name,
    /// How long the command may take to end before it is killed: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse_or_zero)]
    timeout: Duration,
}

/// Answers 0 when it has ended.
///
/// # Errors
/// When it did not run, or does not end.
pub fn run(arguments: &Arguments) -> Result<u8> {
    vm::check_root()?;
    let state = State::open(&arguments.name.name)?;
    let _lock = state.lock()?;
    if state.condition()? != Condition::Running {
        bail!("{} does not run", state.name());
    }
    stop(&state, arguments.timeout)?;
    Ok(0)
}

/// Ends a VM that runs, whose command gets `grace` to end by itself.
///
/// # Errors
/// When it does not end.
pub fn stop(state: &State, grace: Duration) -> Result<()> {
    let signal = state.description().map_or(Signal::SIGTERM as i32, |known| known.stop_signal);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stopped = runtime.block_on(async {
        // It may just have ended, or not answer.
        if let Ok(vm) = Vm::connect(state).await {
            if !grace.is_zero() {
                vm.signal("", signal).await;
                let _ = timeout(grace, vm.wait("")).await;
            }
            vm.signal("", Signal::SIGKILL as i32).await;
        }
        if gone(state, CLEAN).await.is_ok() {
            return Ok(());
        }
        // It still holds its lock, so the pid is its own.
        if let Some(keeper) = state.keeper() {
            // It may end at this moment.
            let _ = kill(Pid::from_raw(keeper), Signal::SIGKILL);
        }
        gone(state, CLEAN).await
    });
    runtime.shutdown_background();
    stopped
}

/// Waits for the keeper's end.
async fn gone(state: &State, limit: Duration) -> Result<()> {
    let (done, ended) = oneshot::channel();
    let waiting = State::open(state.name())?;
    // The lock cannot be waited for otherwise. The thread ends with the keeper, or with us.
    thread::spawn(move || drop(done.send(waiting.wait_for_keeper())));
    match timeout(limit, ended).await {
        Ok(Ok(waited)) => waited,
        _ => bail!("the keeper of {} has not ended within {limit:?}", state.name()),
    }
}
