//! A container that exists: its process, its execs, its start. RPCs: CreateContainer, Start, DeleteContainer,
//! LookAgain.

pub mod copy_up;
pub mod create;
pub mod delete;
pub mod dev;
pub mod disks;
pub mod held_mounts;
pub mod hook;
pub mod in_fork;
pub mod look_again;
pub mod look_cgroup;
pub mod namespaces;
pub mod root;
pub mod spec;
pub mod sysctl;
pub mod volumes;
pub mod watches;
pub mod workdir;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use guest_protocol::boot::RUN_DIR;
use libcontainer::oci_spec::runtime::Spec;

use self::root::OwnRoot;
use self::volumes::Volumes;
use crate::cgroup::Cgroup;
use crate::net::sockets::Sockets;
use crate::process::{Process, life};
use crate::rpc::fault::Fault;

/// A container that exists.
pub struct Container {
    pub id: String,
    pub spec: Spec,
    pub cgroup: Cgroup,
    /// Its first process.
    pub init: Process,
    /// Unix sockets of the host that it may dial.
    pub sockets: Sockets,
    /// Its volumes that the host watches.
    pub volumes: Volumes,
    /// Its root, where that is no part of the share.
    pub own_root: Option<OwnRoot>,
    started: Mutex<bool>,
    execs: Mutex<HashMap<String, Exec>>,
}

/// An exec's process, or its place while the process is being made.
#[derive(Clone)]
pub enum Exec {
    Pending,
    Made(Process),
}

/// The directory of container `id`'s files. [`delete`] removes it.
pub fn run_dir(id: &str) -> PathBuf {
    Path::new(RUN_DIR).join(id)
}

/// The directory of libcontainer's state of container `id`.
fn state_dir(id: &str) -> PathBuf {
    run_dir(id).join("state")
}

impl Container {
    /// Releases the process: libcontainer's init waits for a message on its notify socket.
    pub fn start(&self) -> Result<(), Fault> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if *started {
            return Err(Fault::precondition(format!("container {} has been started", self.id)));
        }
        if self.init.has_ended() {
            return Err(Fault::precondition(format!("container {} has ended", self.id)));
        }
        let release = || -> Result<()> {
            let dir = state_dir(&self.id).join(&self.id);
            // Through a descriptor: the path may be longer than a socket's address can be.
            let dir = fs::File::open(&dir).with_context(|| format!("open {}", dir.display()))?;
            let socket =
                format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), libcontainer::notify_socket::NOTIFY_FILE);
            let mut socket = UnixStream::connect(&socket).context("connect to the waiting process")?;
            socket.write_all(b"start container").context("release the waiting process")
        };
        release().with_context(|| format!("start container {}", self.id))?;
        *started = true;
        Ok(())
    }

    pub fn execs(&self) -> MutexGuard<'_, HashMap<String, Exec>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that `exec_id` names; the first one when it is empty.
    pub fn process(&self, exec_id: &str) -> Result<Process, Fault> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        match self.execs().get(exec_id) {
            Some(Exec::Made(process)) => Ok(process.clone()),
            _ => Err(Fault::not_found(format!("exec {exec_id} in container {} not found", self.id))),
        }
    }

    /// Sends `signal` to every process.
    pub fn signal_all(&self, signal: u32) -> Result<(), Fault> {
        if signal == libc::SIGKILL as u32 {
            return Ok(self.cgroup.kill()?);
        }
        for pid in self.cgroup.processes()? {
            match life::send(pid as i32, signal) {
                Err(fault) if fault.code == ttrpc::Code::NOT_FOUND => {}
                done => done?,
            }
        }
        Ok(())
    }
}
