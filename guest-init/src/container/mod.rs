//! One container: making it, starting it, and what is known of it. Its files below /run and its
//! cgroup are removed by [`delete`](super::delete), also when making it fails half-way.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use guest_protocol::api::CreateContainerRequest;
use guest_protocol::boot::RUN_DIR;
use guest_protocol::mux::Mux;
use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::cgroup::Cgroup;
use super::exit::Process;
use super::fault::Fault;
use super::fork::{Report, fork};
use super::held_mounts::HeldMounts;
use super::reaper::Reaper;
use super::sockets::Sockets;
use super::stdio::Wiring;
use super::{console, create, delete, namespaces, spec, sysctl};

/// What making a process needs of PID 1.
#[derive(Clone)]
pub struct Means {
    pub reaper: Reaper,
    pub mux: Mux,
}

/// A container that exists.
pub struct Container {
    pub id: String,
    pub spec: Spec,
    pub cgroup: Cgroup,
    pub init: Process,
    /// Unix sockets of the host that it may dial.
    pub sockets: Sockets,
    started: Mutex<bool>,
    execs: Mutex<HashMap<String, Exec>>,
}

/// An exec's process, or its place while it is being made.
#[derive(Clone)]
pub enum Exec {
    Coming,
    Made(Process),
}

/// Where container `id` keeps its files.
pub fn run_dir(id: &str) -> PathBuf {
    Path::new(RUN_DIR).join(id)
}

impl Container {
    /// Makes a container whose process waits for [`start`](Self::start). `pid_of` knows the first
    /// process of others, whose namespaces it may share.
    pub async fn create(
        means: &Means,
        request: CreateContainerRequest,
        pid_of: impl Fn(&str) -> Result<i32, Fault>,
    ) -> Result<Container, Fault> {
        let id = request.container_id;
        let spec: Spec = serde_json::from_slice(&request.spec)
            .map_err(|err| Fault::invalid(format!("parse the spec of container {id}: {err}")))?;
        let mut spec = spec::prepare(spec, &id, request.stdio.terminal)?;
        namespaces::join(&mut spec, pid_of)?;
        let sysctls = sysctl::take_shared(&mut spec)?;
        let rootfs = root_of(&spec);
        check_rootfs(&rootfs)?;
        sysctl::apply(&sysctls)?;
        let cgroup = Cgroup::new(
            spec.linux().as_ref().and_then(|l| l.cgroups_path().as_deref()).unwrap_or(Path::new("")),
        );
        let owner = spec.process().as_ref().map_or(0, |process| process.user().uid());
        let wiring = Wiring::open(&means.mux, &request.stdio, owner)?;
        let made = async {
            let sockets = Sockets::listen(&id, &request.sockets)?;
            Ok::<_, anyhow::Error>((make(means, &id, &spec, wiring, &cgroup).await?, sockets))
        };
        match made.await {
            Ok((init, sockets)) => Ok(Container {
                id,
                spec,
                cgroup,
                init,
                sockets,
                started: Mutex::default(),
                execs: Mutex::default(),
            }),
            Err(err) => {
                if let Err(err) = delete::remains(means, &id, &cgroup).await {
                    log::warn!("clean up after container {id} failed to be made: {err:#}");
                }
                Err(Fault::new(ttrpc::Code::UNKNOWN, format!("{err:#}")))
            }
        }
    }

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
            // Through a descriptor, as the path itself may be longer than a socket's name can be.
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

    /// The process that `exec_id` names; the container's own when it is empty.
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
            match super::exit::send(pid as i32, signal) {
                Err(fault) if fault.code == ttrpc::Code::NOT_FOUND => {}
                done => done?,
            }
        }
        Ok(())
    }
}

fn state_dir(id: &str) -> PathBuf {
    run_dir(id).join("state")
}

fn root_of(spec: &Spec) -> PathBuf {
    spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default()
}

fn check_rootfs(rootfs: &Path) -> Result<(), Fault> {
    // Must not look into it: that would mount the share's part in PID 1's namespace, for good.
    match fs::metadata(rootfs) {
        Ok(data) if data.is_dir() => Ok(()),
        Ok(_) => Err(Fault::invalid(format!("rootfs {} is not a directory", rootfs.display()))),
        Err(err) => {
            Err(Fault::invalid(format!("rootfs {}: {}", rootfs.display(), super::fault::errno_text(&err))))
        }
    }
}

async fn make(means: &Means, id: &str, spec: &Spec, wiring: Wiring, cgroup: &Cgroup) -> Result<Process> {
    let (bundle, state) = (run_dir(id), state_dir(id));
    fs::create_dir_all(&state).with_context(|| format!("make {}", state.display()))?;
    let config = bundle.join("config.json");
    fs::write(&config, serde_json::to_vec(spec)?).with_context(|| format!("write {}", config.display()))?;
    let process = spec.process().as_ref().context("no process")?;
    let console = match process.terminal() {
        Some(true) => Some(listen(&bundle.join("console"))?),
        _ => None,
    };
    let job = create::Job {
        container_id: id.to_owned(),
        bundle,
        state,
        cwd: process.cwd().clone(),
        console: console.as_ref().map(|(_, path)| path.clone()),
    };
    let hold = means.reaper.hold();
    let helper = fork(&means.reaper, wiring.child(), &[], |reporter| create::in_fork(job, &reporter))
        .context("fork PID 1")?;
    let pid = match helper.first().await {
        Report::Pid(pid) => pid,
        Report::Failed(why) => anyhow::bail!(why),
        Report::Done => anyhow::bail!("the helper process made no process"),
    };
    let exit = means.reaper.claim(pid);
    drop(hold);
    let master = console.map(|(listener, path)| console::accept(&listener, &path)).transpose()?;
    let master: Option<Arc<OwnedFd>> = master.map(Arc::new);
    if let (Some(master), Some(size)) = (&master, process.console_size()) {
        console::resize(master, size.width() as u32, size.height() as u32)?;
    }
    let pumps = wiring.run(master.as_ref())?;
    let mounts = HeldMounts::of(pid).context("hold the container's mounts")?;
    let finish = {
        let cgroup = cgroup.clone();
        let own_pids = has_own_pids(spec);
        move || async move {
            // With a PID namespace of its own, the kernel has ended all its processes by now.
            if !own_pids && let Err(err) = cgroup.clear().await {
                log::warn!("{err:#}");
            }
            mounts.release();
            cgroup.oom_kills() > 0
        }
    };
    Ok(Process::watch(pid, exit, pumps, master, finish))
}

fn has_own_pids(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref());
    namespaces.unwrap_or_default().iter().any(|ns| ns.typ() == LinuxNamespaceType::Pid && ns.path().is_none())
}

/// Listens for libcontainer's console message. Bound by a short name, whatever the id's length.
fn listen(path: &Path) -> Result<(UnixListener, PathBuf)> {
    let make = || -> Result<UnixListener> {
        let dir = fs::File::open(path.parent().context("no parent")?)?;
        let name = path.file_name().and_then(|name| name.to_str()).context("no name")?;
        Ok(UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?)
    };
    let listener = make().with_context(|| format!("listen on {}", path.display()))?;
    listener.set_nonblocking(true).with_context(|| format!("make {} non-blocking", path.display()))?;
    Ok((listener, path.to_owned()))
}
