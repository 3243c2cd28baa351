//! Creates a container, whose process then waits for Start. What it made is removed again when a step fails.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use guest_protocol::api::CreateContainerRequest;
use guest_protocol::failure::Reason;
use libcontainer::oci_spec::runtime::{Hooks, LinuxNamespaceType, Spec};
use tokio::sync::oneshot;

use super::held_mounts::HeldMounts;
use super::hook::Task;
use super::root::OwnRoot;
use super::volumes::{self, Volumes};
use super::{
    Container, copy_up, delete, dev, disks, hook, in_fork, namespaces, run_dir, spec, state_dir, sysctl,
};
use crate::cgroup::Cgroup;
use crate::io::{console, stdio::Wiring, terminal};
use crate::net::sockets::Sockets;
use crate::process::{
    Process, Supervisor, env,
    fork::{Report, fork},
    reaper::Exit,
};
use crate::rpc::fault::{Fault, errno_text};
use crate::vm::users;

/// Creates the container that `request` describes. `pid_of` knows the first process of each other container, whose
/// namespaces this one may share.
pub async fn create(
    supervisor: &Supervisor,
    request: CreateContainerRequest,
    pid_of: impl Fn(&str) -> Result<i32, Fault>,
) -> Result<Container, Fault> {
    let id = request.container_id.clone();
    let mut spec: Spec = serde_json::from_slice(&request.spec)
        .map_err(|err| Fault::invalid(format!("parse the spec of container {id}: {err}")))?;
    disks::renumber(&mut spec, &request.disks).context("find the disks of its devices")?;
    let mut spec = spec::prepare(spec, &id, request.stdio.terminal)?;
    let tasks = copy_up::take(&mut spec);
    namespaces::join(&mut spec, pid_of)?;
    let sysctls = sysctl::take_shared(&mut spec)?;
    check_rootfs(&spec)?;
    sysctl::apply(&sysctls)?;
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let cgroup = Cgroup::new(path.unwrap_or(Path::new("")));
    let owner = users::outside(&spec, spec.process().as_ref().map_or(0, |process| process.user().uid()))?;
    let wiring = Wiring::open(&supervisor.mux, &request.stdio, owner)?;
    // From here on, what fails is followed by `forget`.
    let own_root = OwnRoot::of(&request).context("prepare the rootfs")?;
    let watched = volumes::places(&spec, &id, &request.watched);
    let volumes = Volumes::default();
    let made = async {
        let sockets = Sockets::listen(&id, &request.sockets)?;
        let plan = Plan { id: &id, spec: &spec, watched, volumes: &volumes, own_root: &own_root, tasks };
        let init = make(supervisor, &plan, wiring, &cgroup).await?;
        Ok::<_, anyhow::Error>((init, sockets))
    };
    match made.await {
        Ok((init, sockets)) => Ok(Container {
            id,
            spec,
            cgroup,
            init,
            sockets,
            volumes,
            own_root,
            started: Mutex::default(),
            execs: Mutex::default(),
        }),
        Err(err) => {
            if let Err(err) = delete::remains(&id, &cgroup).await {
                log::warn!("clean up after container {id} failed to be made: {err:#}");
            }
            delete::forget(own_root.as_ref(), &supervisor.reaper);
            Err(Fault::of_process(&err))
        }
    }
}

fn check_rootfs(spec: &Spec) -> Result<(), Fault> {
    let rootfs = spec.root().as_ref().map(|root| root.path().as_path()).unwrap_or(Path::new(""));
    // Must not look into it: that would mount this part of the share in PID 1's own namespace, for good.
    match fs::metadata(rootfs) {
        Ok(data) if data.is_dir() => Ok(()),
        Ok(_) => Err(Fault::invalid(format!("rootfs {} is not a directory", rootfs.display()))),
        Err(err) => Err(Fault::invalid(format!("rootfs {}: {}", rootfs.display(), errno_text(&err)))),
    }
}

/// What libcontainer reads instead of the spec.
fn for_libcontainer(spec: &Spec, hooks: Option<Hooks>) -> Spec {
    let mut spec = spec.clone();
    spec.set_hooks(hooks);
    if let Some(process) = spec.process_mut() {
        let env = env::with_placeholder(process.env().as_deref().unwrap_or_default());
        process.set_env(Some(env));
    }
    spec
}

/// A container's process, as libcontainer has made it.
struct Init {
    pid: i32,
    exit: oneshot::Receiver<Exit>,
    console: Option<(UnixListener, PathBuf)>,
}

/// What is to be made.
struct Plan<'a> {
    id: &'a str,
    spec: &'a Spec,
    watched: Vec<(u32, PathBuf)>,
    volumes: &'a Volumes,
    own_root: &'a Option<OwnRoot>,
    /// What hooks do.
    tasks: Vec<Task>,
}

/// Has libcontainer make it.
async fn init(supervisor: &Supervisor, plan: &Plan<'_>, wiring: &Wiring, tasks: &[Task]) -> Result<Init> {
    let Plan { id, spec, volumes, .. } = plan;
    let rootfs = spec.root().as_ref().context("no root")?.path();
    let (bundle, state) = (run_dir(id), state_dir(id));
    fs::create_dir_all(&state).with_context(|| format!("make {}", state.display()))?;
    let hooks = hook::hooks(rootfs, tasks)?;
    let config = bundle.join("config.json");
    fs::write(&config, serde_json::to_vec(&for_libcontainer(spec, hooks))?)
        .with_context(|| format!("write {}", config.display()))?;
    let process = spec.process().as_ref().context("no process")?;
    let console = match process.terminal() {
        Some(true) => Some(listen(&bundle.join("console"))?),
        _ => None,
    };
    let job = in_fork::Job {
        container_id: (*id).to_owned(),
        bundle,
        state,
        cwd: process.cwd().clone(),
        console: console.as_ref().map(|(_, path)| path.clone()),
        own_root: plan.own_root.clone().map(|root| (root, rootfs.clone())),
        watched: plan.watched.clone(),
        rlimits: process.rlimits().clone().unwrap_or_default(),
    };
    let (ours, theirs) = volumes::channel().context("make a socket pair")?;
    let hold = supervisor.reaper.hold();
    let helper =
        fork(&supervisor.reaper, wiring.child(), &[theirs.as_fd()], |reporter| in_fork::run(job, &reporter))
            .context("fork PID 1")?;
    drop(theirs);
    let pid = match helper.first().await {
        Report::Pid(pid) => pid,
        Report::Failed(refusal) => return Err(copy_up::explain(refusal, tasks).into()),
    };
    let exit = supervisor.reaper.claim(pid);
    drop(hold);
    volumes.receive(&ours);
    Ok(Init { pid, exit, console })
}

/// As [`init`]. A working directory that is missing is made.
async fn init_somewhere(
    supervisor: &Supervisor,
    plan: &Plan<'_>,
    wiring: &Wiring,
    cgroup: &Cgroup,
) -> Result<Init> {
    let first = init(supervisor, plan, wiring, &plan.tasks).await;
    let refused = match first {
        Err(err) if Fault::of_process(&err).reason == Reason::DIRECTORY_NOT_FOUND => err,
        made => return made,
    };
    delete::attempt(plan.id, cgroup).await?;
    let cwd = plan.spec.process().as_ref().context("no process")?.cwd();
    let tasks = [plan.tasks.as_slice(), &[Task::MakeDirectory(cwd.clone())]].concat();
    // Why it could not be made says less than that it is missing.
    init(supervisor, plan, wiring, &tasks).await.map_err(|_| refused)
}

async fn make(supervisor: &Supervisor, plan: &Plan<'_>, wiring: Wiring, cgroup: &Cgroup) -> Result<Process> {
    let Init { pid, exit, console } = init_somewhere(supervisor, plan, &wiring, cgroup).await?;
    let Plan { id, spec, volumes, .. } = plan;
    let process = spec.process().as_ref().context("no process")?;
    let master = console.map(|(listener, path)| console::accept(&listener, &path)).transpose()?;
    let master: Option<Arc<OwnedFd>> = master.map(Arc::new);
    // Open until the process has ended.
    let held = match &master {
        Some(master) => Some(terminal::give(master, users::outside(spec, process.user().uid())?)?),
        None => None,
    };
    if let (Some(master), Some(size)) = (&master, process.console_size()) {
        console::resize(master, size.width() as u32, size.height() as u32)?;
    }
    let pumps = wiring.run(master.as_ref())?;
    if let Err(err) = dev::name_core(pid, users::root_outside(spec)?) {
        log::warn!("name /dev/core in container {id}: {err}");
    }
    let mounts = HeldMounts::of(pid).context("hold the container's mounts")?;
    let finish = {
        let (cgroup, volumes) = (cgroup.clone(), (*volumes).clone());
        let written = plan.own_root.as_ref().map(|root| root.hold(pid)).transpose();
        let written = written.context("hold the container's root")?.flatten();
        let reaper = supervisor.reaper.clone();
        let own_pids = has_own_pids(spec);
        move || async move {
            drop(held);
            // In a PID namespace of the container's own, the kernel has ended all its processes by now.
            if !own_pids && let Err(err) = cgroup.clear().await {
                log::warn!("{err:#}");
            }
            if let Some(written) = written
                && let Err(err) = written.write(&reaper).await
            {
                log::warn!("write what a container wrote to its root: {err:#}");
            }
            let volumes = volumes.end().await;
            mounts.release();
            drop(volumes);
            cgroup.oom_kills() > 0
        }
    };
    Ok(Process::watch(pid, exit, pumps, master, finish))
}

fn has_own_pids(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref());
    namespaces.unwrap_or_default().iter().any(|ns| ns.typ() == LinuxNamespaceType::Pid && ns.path().is_none())
}

/// Listens for libcontainer's console message.
fn listen(path: &Path) -> Result<(UnixListener, PathBuf)> {
    let make = || -> Result<UnixListener> {
        // Through a descriptor: the path may be longer than a socket's address can be.
        let dir = fs::File::open(path.parent().context("no parent")?)?;
        let name = path.file_name().and_then(|name| name.to_str()).context("no name")?;
        Ok(UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?)
    };
    let listener = make().with_context(|| format!("listen on {}", path.display()))?;
    listener.set_nonblocking(true).with_context(|| format!("make {} non-blocking", path.display()))?;
    Ok((listener, path.to_owned()))
}
