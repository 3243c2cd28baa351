//! Reaps every child of PID 1, and tells exits to those who wait for them. Nothing else may wait for a child.
//!
//! A helper forks a container's process, which becomes PID 1's child when the helper ends. PID 1 may reap that process
//! before it knows the pid, which the helper reports. So while a [`Hold`] lives, exits that nobody waits for are kept.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use anyhow::{Context, Result};
use linux::wait::{ExitStatus, reap_now};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::sync::oneshot;

use crate::io::poll;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0-255; 128+n for death by signal n.
    pub status: u32,
    pub at: SystemTime,
}

/// What is known of PID 1's children. Clones share it.
#[derive(Clone, Default)]
pub struct Reaper(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    awaited: HashMap<i32, oneshot::Sender<Exit>>,
    unclaimed: HashMap<i32, Exit>,
    holds: usize,
}

/// While it lives, no exit is forgotten.
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
                    reaper.reap(|| reap_now(None));
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

    /// The exit of child `pid`, which has just been made, or was made under a [`Hold`].
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

    /// Reaps as long as `next` finds an ended child. It fails only when there are no children.
    fn reap(&self, next: impl Fn() -> io::Result<Option<(Pid, ExitStatus)>>) {
        while let Ok(Some((pid, how))) = next() {
            self.ended(pid, how);
        }
    }

    fn ended(&self, pid: Pid, how: ExitStatus) {
        let exit = Exit { status: how.shell_status().into(), at: SystemTime::now() };
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
        reaper.ended(Pid::from_raw(7), ExitStatus::Exited(3));
        assert_eq!(reaper.claim(7).try_recv().unwrap().status, 3);
        reaper.ended(Pid::from_raw(8), ExitStatus::Exited(4));
        drop(hold);
        assert!(reaper.claim(8).try_recv().is_err());
    }

    #[test]
    fn an_orphan_is_forgotten() {
        let reaper = Reaper::default();
        reaper.ended(Pid::from_raw(9), ExitStatus::Exited(0));
        assert!(reaper.table().unclaimed.is_empty());
    }

    #[test]
    fn a_death_by_a_real_time_signal_is_an_exit() {
        let pid = linux::spawn::Spawn::new("/bin/sleep").arg("1000").spawn().unwrap().pid();
        let reaper = Reaper::default();
        let mut exit = reaper.claim(pid.as_raw());
        crate::process::life::send(pid.as_raw(), libc::SIGRTMIN() as u32 + 3).unwrap();
        let status = loop {
            reaper.reap(|| reap_now(Some(pid)));
            match exit.try_recv() {
                Ok(exit) => break exit.status,
                Err(_) => std::thread::yield_now(),
            }
        };
        assert_eq!(status, 128 + 37);
    }

    #[test]
    fn a_claim_is_answered_by_the_exit() {
        let reaper = Reaper::default();
        let mut exit = reaper.claim(7);
        assert!(exit.try_recv().is_err());
        reaper.ended(Pid::from_raw(7), ExitStatus::Killed(9));
        assert_eq!(exit.try_recv().unwrap().status, 137);
    }
}
