//! Execs: more processes in a running container.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::{Context, Result};
use guest_protocol::api::{ExecRequest, Stdio};
use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Process as ProcessSpec};
use linux::pidfd::Pidfd;
use nix::unistd::Pid;

use crate::container::{Container, Exec, spec};
use crate::io::{console, stdio::Wiring, terminal};
use crate::process::{
    Process, Supervisor, enter,
    fork::{Report, fork},
};
use crate::rpc::fault::Fault;
use crate::vm::users;

/// Reserves an exec's id while its process is being made. Frees the id when that fails.
struct Place<'a> {
    container: &'a Container,
    id: &'a str,
    made: bool,
}

impl<'a> Place<'a> {
    fn take(container: &'a Container, id: &'a str) -> Result<Place<'a>, Fault> {
        let mut execs = container.execs();
        if execs.contains_key(id) {
            return Err(Fault::exists(format!("exec {id} in container {} exists", container.id)));
        }
        execs.insert(id.to_owned(), Exec::Pending);
        Ok(Place { container, id, made: false })
    }

    fn fill(mut self, process: Process) {
        self.container.execs().insert(self.id.to_owned(), Exec::Made(process));
        self.made = true;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.made {
            self.container.execs().remove(self.id);
        }
    }
}

/// Makes and starts a process; answers its pid.
pub async fn exec(
    supervisor: &Supervisor,
    container: &Container,
    request: ExecRequest,
) -> Result<i32, Fault> {
    let id = &request.exec_id;
    let mut process: ProcessSpec = serde_json::from_slice(&request.process)
        .map_err(|err| Fault::invalid(format!("parse the process of exec {id}: {err}")))?;
    process.set_terminal(Some(request.stdio.terminal));
    spec::prepare_process(&mut process)?;
    let place = Place::take(container, id)?;
    if container.init.has_ended() {
        return Err(Fault::precondition(format!("cannot exec in a stopped container ({})", container.id)));
    }
    if container.cgroup.frozen() {
        return Err(Fault::precondition(format!("cannot exec in a paused container ({})", container.id)));
    }
    let job = job(container, process)?;
    let owner = users::outside(&container.spec, job.process.user().uid())?;
    let wiring = Wiring::open(&supervisor.mux, &request.stdio, owner)?;
    let process = make(supervisor, container, job, wiring, &request.stdio)
        .await
        .map_err(|err| Fault::of_process(&err))?;
    let pid = process.pid;
    place.fill(process);
    Ok(pid)
}

async fn make(
    supervisor: &Supervisor,
    container: &Container,
    job: enter::Job,
    wiring: Wiring,
    stdio: &Stdio,
) -> Result<Process> {
    let init = container.init.pid;
    let init = Pidfd::open(Pid::from_raw(init)).with_context(|| format!("open a pidfd of process {init}"))?;
    let (ours, theirs) = UnixStream::pair().context("make a socket pair")?;
    let hold = supervisor.reaper.hold();
    let extra = [init.as_fd(), theirs.as_fd()];
    let helper = fork(&supervisor.reaper, wiring.child(), &extra, |reporter| enter::run(&job, &reporter))
        .context("fork PID 1")?;
    drop(theirs);
    let mut pid = None;
    let mut failure = None;
    for report in helper.all().await {
        match report {
            Report::Pid(made) => pid = Some(made),
            Report::Failed(refusal) => failure = failure.or(Some(refusal)),
        }
    }
    if let Some(refusal) = failure {
        return Err(refusal.into());
    }
    let pid = pid.context("the helper process ended without an answer")?;
    let exit = supervisor.reaper.claim(pid);
    drop(hold);
    let master = if stdio.terminal {
        ours.set_nonblocking(true).context("make the console socket non-blocking")?;
        Some(Arc::new(console::receive(&ours)?))
    } else {
        None
    };
    let pumps = wiring.run(master.as_ref())?;
    let cgroup = container.cgroup.clone();
    let before = cgroup.oom_kills();
    let held = master.as_deref().map(terminal::other_side).transpose()?;
    Ok(Process::watch(pid, exit, pumps, master, move || async move {
        drop(held);
        cgroup.oom_kills() > before
    }))
}

/// The process, which has the capabilities, limits and standing when memory is short of the container's own where it names none.
fn job(container: &Container, mut process: ProcessSpec) -> Result<enter::Job, Fault> {
    let own = container.spec.process().as_ref();
    process.set_oom_score_adj(process.oom_score_adj().or(own.and_then(|own| own.oom_score_adj())));
    let capabilities = process.capabilities().as_ref().or(own.and_then(|own| own.capabilities().as_ref()));
    let rlimits = process.rlimits().as_ref().filter(|list| !list.is_empty());
    let rlimits = rlimits.or(own.and_then(|own| own.rlimits().as_ref())).cloned().unwrap_or_default();
    let linux = container.spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    Ok(enter::Job {
        capabilities: spec::explicit_capabilities(capabilities),
        rlimits,
        seccomp: linux.and_then(|linux| linux.seccomp().clone()),
        namespaces: namespaces.iter().fold(0, |flags, ns| flags | flag(ns.typ())),
        cgroups: container.cgroup.places(container.init.pid)?,
        process,
    })
}

fn flag(kind: LinuxNamespaceType) -> libc::c_int {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => 0x80,
    }
}
