//! Reaps every child of PID 1 and hands exits to whoever waits for them.
//!
//! A container's process is forked by a helper and becomes PID 1's child when the helper ends;
//! PID 1 may reap it before it has read its pid from the helper. So while a [`Hold`] lives,
//! exits that nobody waits for are kept. Never wait for a child anywhere else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::sync::oneshot;

use super::poll;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0-255; 128+n for death by signal n.
    pub status: u32,
    pub at: SystemTime,
}

/// The bookkeeping. Clones share it.
#[derive(Clone, Default)]
pub struct Reaper(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    awaited: HashMap<i32, oneshot::Sender<Exit>>,
    unclaimed: HashMap<i32, Exit>,
    holds: usize,
}

/// While it lives, no exit is thrown away.
pub struct Hold(Reaper);

impl Reaper {
    /// Blocks SIGCHLD and reaps on a task of the current runtime from now on.
    pub fn start() -> Result<Reaper> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.thread_block().context("block SIGCHLD")?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("make a signalfd")?;
        let signals = poll::register(signals, Interest::READABLE).context("register the signalfd")?;
        let reaper = Reaper::default();
        tokio::spawn({
            let reaper = reaper.clone();
            async move {
                loop {
                    reaper.reap_all();
                    let Ok(mut ready) = signals.readable().await else { return };
                    while let Ok(Some(_)) = signals.get_ref().read_signal() {}
                    ready.clear_ready();
                }
            }
        });
        Ok(reaper)
    }

    /// Keeps exits whose pid is not known yet.
    pub fn hold(&self) -> Hold {
        self.table().holds += 1;
        Hold(self.clone())
    }

    /// The exit of child `pid`, which either just started or started under a [`Hold`].
    pub fn claim(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.table();
        match table.unclaimed.remove(&pid) {
            Some(exit) => {
                let _ = sender.send(exit);
            }
            None => {
                table.awaited.insert(pid, sender);
            }
        }
        receiver
    }

    fn reap_all(&self) {
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.ended(pid, code as u32),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.ended(pid, 128 + signal as u32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn ended(&self, pid: Pid, status: u32) {
        let exit = Exit { status, at: SystemTime::now() };
        let mut table = self.table();
        match table.awaited.remove(&pid.as_raw()) {
            Some(waiting) => {
                let _ = waiting.send(exit);
            }
            None if table.holds > 0 => {
                table.unclaimed.insert(pid.as_raw(), exit);
            }
            None => {}
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut table = self.0.table();
        table.holds -= 1;
        if table.holds == 0 {
            table.unclaimed.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_before_its_claim_is_kept_while_somebody_holds() {
        let reaper = Reaper::default();
        let hold = reaper.hold();
        reaper.ended(Pid::from_raw(7), 3);
        assert_eq!(reaper.claim(7).try_recv().unwrap().status, 3);
        reaper.ended(Pid::from_raw(8), 4);
        drop(hold);
        assert!(reaper.claim(8).try_recv().is_err());
    }

    #[test]
    fn an_orphan_is_forgotten() {
        let reaper = Reaper::default();
        reaper.ended(Pid::from_raw(9), 0);
        assert!(reaper.table().unclaimed.is_empty());
    }

    #[test]
    fn a_claim_is_answered_by_the_exit() {
        let reaper = Reaper::default();
        let mut exit = reaper.claim(7);
        assert!(exit.try_recv().is_err());
        reaper.ended(Pid::from_raw(7), 137);
        assert_eq!(exit.try_recv().unwrap().status, 137);
    }
}
