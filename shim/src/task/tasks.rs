//! The table of a shim's tasks, and how they come, start, end and go.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use containerd_shim::event::Event;
use containerd_shim_protos::{
    events::task::{
        TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskStart,
    },
    protobuf::MessageDyn,
    types::mount::Mount,
};
use log::{debug, info, warn};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::process::{Ended, Process, Status};
use crate::{
    error::{Error, Result},
    events::Publish,
    lock::lock,
    report::{self, Report},
    sandbox::{Exit, NewContainer, NewProcess, ProcessId, Sandbox},
    stdio::StdioPaths,
};

/// How long a delete waits for a creation that is under way. containerd gives a delete up after 5 s. Source: containerd
/// `core/runtime/v2/shim.go`, `cleanupTimeout`.
const SETTLED: Duration = Duration::from_secs(4);

/// How long after a container's first event about memory the next may come. It doubles with each event, up to
/// [`OOM_CALMEST`]: the guest may say anything.
const OOM_CALM: Duration = Duration::from_secs(1);
const OOM_CALMEST: Duration = Duration::from_secs(64);

/// What `delete` tells of the process it removed.
pub struct Deleted {
    /// The pid it had on the host.
    pub pid: u32,
    /// Its end.
    pub ended: Ended,
}

/// The tasks of one sandbox.
pub struct Tasks {
    pub(super) sandbox: Arc<dyn Sandbox>,
    events: Arc<dyn Publish>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<String, Slot>,
    /// No more tasks are taken.
    is_closed: bool,
}

/// A container's place in the table.
enum Slot {
    /// Its creation is under way: the id is taken, and nothing else is known.
    Reserved {
        /// Ends with the creation.
        settling: watch::Receiver<()>,
        /// It was deleted meanwhile, and did not end soon.
        is_given_up: bool,
    },
    Task(Arc<Task>),
}

/// A container with its execs.
pub(super) struct Task {
    pub(super) bundle: String,
    pub(super) pid: u32,
    init: Arc<Process>,
    pub(super) execs: Mutex<HashMap<String, Exec>>,
}

pub(super) struct Exec {
    pub(super) process: Arc<Process>,
    /// What is started.
    new: NewProcess,
    /// The size of its terminal, width and height in characters, when it was set before the start.
    pub(super) size: Option<(u32, u32)>,
}

/// Gives a reserved id free again unless its creation succeeded.
struct Reservation<'a> {
    tasks: &'a Tasks,
    id: &'a str,
    /// Dropped last: who waits for it finds the outcome in the table.
    _settled: watch::Sender<()>,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let slots = &mut lock(&self.tasks.table).slots;
        if matches!(slots.get(self.id), Some(Slot::Reserved { .. })) {
            slots.remove(self.id);
        }
    }
}

impl Tasks {
    /// An empty table over `sandbox`, telling `events`.
    pub fn new(sandbox: Arc<dyn Sandbox>, events: Arc<dyn Publish>) -> Arc<Self> {
        Arc::new(Tasks { sandbox, events, table: Mutex::default() })
    }

    /// Takes no more tasks from now on, unless there is one or one is being made; whether there is none. A creation that
    /// was given up does not count: what it made is undone from outside once the shim has gone.
    pub fn close(&self) -> bool {
        let mut table = lock(&self.table);
        let is_empty =
            table.slots.values().all(|slot| matches!(slot, Slot::Reserved { is_given_up: true, .. }));
        table.is_closed |= is_empty;
        is_empty
    }

    pub(super) fn publish<E: Event + MessageDyn>(&self, event: E) {
        self.events.publish(event.topic(), Box::new(event));
    }

    pub(super) fn task(&self, id: &str) -> Result<Arc<Task>> {
        match lock(&self.table).slots.get(id) {
            Some(Slot::Task(task)) => Ok(task.clone()),
            _ => Err(Error::not_found(format!("no task {id}"))),
        }
    }

    /// Waits for the end of `container`'s creation, if it is under way. One that does not end [soon](SETTLED) is given up:
    /// what it makes is removed when it ends.
    async fn settled(&self, container: &str) {
        let mut settling = match lock(&self.table).slots.get(container) {
            Some(Slot::Reserved { settling, .. }) => settling.clone(),
            _ => return,
        };
        // Nothing is ever sent: the wait ends with the sender.
        let settled = async { while settling.changed().await.is_ok() {} };
        if timeout(SETTLED, settled).await.is_err()
            && let Some(Slot::Reserved { is_given_up, .. }) = lock(&self.table).slots.get_mut(container)
        {
            warn!("task {container} is deleted and still being made after {SETTLED:?}: it is given up");
            *is_given_up = true;
        }
    }

    /// Puts a container that was made into its reserved place, unless that was given up.
    fn settle(&self, id: &str, task: Task) -> Result<()> {
        let slots = &mut lock(&self.table).slots;
        if matches!(slots.get(id), Some(Slot::Reserved { is_given_up: true, .. })) {
            return Err(Error::precondition(format!("task {id} was deleted while it was made")));
        }
        slots.insert(id.to_owned(), Slot::Task(Arc::new(task)));
        Ok(())
    }

    /// Removes a container that nobody knows of.
    async fn discard(&self, id: &str) {
        let init = ProcessId::init(id);
        if let Err(error) = self.sandbox.signal(&init, libc::SIGKILL as u32, true).await {
            debug!("kill {id}, which was deleted while it was made: {error}");
        }
        self.sandbox.wait(&init).await;
        self.sandbox.delete(id).await;
    }

    pub(super) fn process(&self, id: &ProcessId) -> Result<Arc<Process>> {
        let task = self.task(&id.container)?;
        if id.is_init() {
            return Ok(task.init.clone());
        }
        let execs = lock(&task.execs);
        execs
            .get(&id.exec)
            .map(|exec| exec.process.clone())
            .ok_or_else(|| Error::not_found(format!("no exec {} in task {}", id.exec, id.container)))
    }

    /// Makes a container; its pid on the host.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` for a taken id, `FAILED_PRECONDITION` once the table is closed or when the task was deleted
    /// meanwhile, else what the sandbox says; the id is free again then.
    pub async fn create(self: &Arc<Self>, new: NewContainer) -> Result<u32> {
        let id = new.id.clone();
        let (settled, settling) = watch::channel(());
        {
            let mut table = lock(&self.table);
            if table.is_closed {
                return Err(Error::precondition(format!("create task {id}: its shim is ending")));
            }
            if table.slots.contains_key(&id) {
                return Err(Error::already_exists(format!("task {id} exists")));
            }
            table.slots.insert(id.clone(), Slot::Reserved { settling, is_given_up: false });
        }
        let _reservation = Reservation { tasks: self, id: &id, _settled: settled };
        let event = create_event(&new);
        let (stdio, bundle) = (new.stdio.clone(), event.bundle.clone());
        let pid = self.sandbox.create(new).await?;
        let init = Arc::new(Process::new(ProcessId::init(&id), pid, stdio));
        let task = Task { bundle, pid, init: init.clone(), execs: Mutex::default() };
        if let Err(error) = self.settle(&id, task) {
            self.discard(&id).await;
            return Err(error);
        }
        self.publish(TaskCreate { pid, ..event });
        failpoint!("create.told");
        // A container can end before its start: its VM dies, or somebody kills it.
        self.watch(init);
        Ok(pid)
    }

    /// Makes an exec known; it is made in the guest when it is started.
    ///
    /// # Errors
    /// `NOT_FOUND` for an unknown container, `ALREADY_EXISTS` for a taken id,
    /// `FAILED_PRECONDITION` when the container does not run.
    pub fn add_exec(&self, id: ProcessId, new: NewProcess, stdio: StdioPaths) -> Result<()> {
        let task = self.task(&id.container)?;
        task.init.require(&[Status::Created, Status::Running], "exec in")?;
        {
            let mut execs = lock(&task.execs);
            if execs.contains_key(&id.exec) {
                return Err(Error::already_exists(format!(
                    "exec {} exists in task {}",
                    id.exec, id.container
                )));
            }
            let process = Arc::new(Process::new(id.clone(), 0, stdio));
            execs.insert(id.exec.clone(), Exec { process, new, size: None });
        }
        self.publish(TaskExecAdded { container_id: id.container, exec_id: id.exec, ..Default::default() });
        Ok(())
    }

    /// Starts a created process; its pid on the host.
    ///
    /// # Errors
    /// `NOT_FOUND`, `FAILED_PRECONDITION` when it is not in the created state, else what the
    /// sandbox says.
    pub async fn start(self: &Arc<Self>, id: &ProcessId) -> Result<u32> {
        let task = self.task(&id.container)?;
        let process = self.process(id)?;
        let gate = process.gate.lock().await;
        if id.is_init() {
            if process.status() == Status::Stopped {
                // It ended before its start. The sandbox knows why and says so.
                self.sandbox.start(&id.container).await?;
            }
            process.require(&[Status::Created], "start")?;
            process.set_starting();
            if let Err(error) = self.sandbox.start(&id.container).await {
                drop(gate);
                // Whoever hears of the failure may want to delete it at once.
                process.ended().await;
                return Err(error);
            }
            process.set_running(task.pid);
            self.publish(TaskStart {
                container_id: id.container.clone(),
                pid: task.pid,
                ..Default::default()
            });
            self.watch_memory(process.clone());
            failpoint!("run.told");
        } else {
            process.require(&[Status::Created], "start")?;
            task.init.require(&[Status::Running], "exec in")?;
            let new = lock(&task.execs).get(&id.exec).map(|exec| exec.new.clone()).unwrap_or_default();
            if let Err(error) = self.sandbox.exec(id, new, process.stdio.clone()).await {
                process.set_ended(Exit { status: 255, oom_killed: false });
                return Err(error);
            }
            process.set_running(task.pid);
            let size = lock(&task.execs).get(&id.exec).and_then(|exec| exec.size);
            if let Some((width, height)) = size
                && let Err(error) = self.sandbox.resize(id, width, height).await
            {
                debug!("resize the terminal of {id}: {error}");
            }
            self.publish(TaskExecStarted {
                container_id: id.container.clone(),
                exec_id: id.exec.clone(),
                pid: task.pid,
                ..Default::default()
            });
            failpoint!("exec.told");
            self.watch(process.clone());
        }
        Ok(task.pid)
    }

    fn publish_oom(&self, container: &str) {
        report::send(Report::Oom);
        self.publish(TaskOOM { container_id: container.to_owned(), ..Default::default() });
    }

    /// Publishes that processes of a running container were OOM-killed, not too often: the guest says so.
    fn watch_memory(self: &Arc<Self>, init: Arc<Process>) {
        let tasks = self.clone();
        tokio::spawn(async move {
            let container = &init.id.container;
            let watch = async {
                let (mut known, mut calm) = (0, OOM_CALM);
                while let Some(count) = tasks.sandbox.oom_kills(container, known).await {
                    known = count;
                    // Its own end tells it, too.
                    if init.status() == Status::Running {
                        tasks.publish_oom(container);
                    }
                    sleep(calm).await;
                    calm = (2 * calm).min(OOM_CALMEST);
                }
            };
            tokio::select! {
                () = watch => {}
                _ = init.ended() => {}
            }
        });
    }

    /// Publishes the end of `process` when it comes: after its start, and a container's own
    /// after those of its execs.
    fn watch(self: &Arc<Self>, process: Arc<Process>) {
        let tasks = self.clone();
        tokio::spawn(async move {
            let exit = tasks.sandbox.wait(&process.id).await;
            let Ok(task) = tasks.task(&process.id.container) else { return };
            if process.id.is_init() {
                let execs: Vec<_> = lock(&task.execs).values().map(|exec| exec.process.clone()).collect();
                for exec in execs {
                    // Under its gate, an exec is either started, and its end comes, or it never will be.
                    let gate = exec.gate.lock().await;
                    if exec.status() == Status::Created {
                        continue;
                    }
                    drop(gate);
                    exec.ended().await;
                }
            }
            let _gate = process.gate.lock().await;
            let ended = process.set_ended(exit);
            if exit.oom_killed {
                tasks.publish_oom(&process.id.container);
            }
            let ProcessId { container, exec } = process.id.clone();
            info!("{} ended with status {}", process.id, exit.status);
            tasks.publish(TaskExit {
                id: if exec.is_empty() { container.clone() } else { exec },
                container_id: container,
                pid: process.state().pid,
                exit_status: exit.status,
                exited_at: Some(ended.at.into()).into(),
                ..Default::default()
            });
            failpoint!("exit.told");
        });
    }

    /// Removes an ended process, or a container that was never started. One that is still being made is waited for, or
    /// [given up](SETTLED): its creator has gone, and nobody else would remove it.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` while it runs; `NOT_FOUND` for one that was given up, so that containerd goes on with its
    /// clean-up.
    pub async fn delete(&self, id: &ProcessId) -> Result<Deleted> {
        if id.is_init() {
            self.settled(&id.container).await;
        }
        let task = self.task(&id.container)?;
        let process = self.process(id)?;
        if id.is_init() {
            if process.status() == Status::Created {
                if let Err(error) = self.sandbox.signal(id, libc::SIGKILL as u32, true).await {
                    debug!("kill {id} before its delete: {error}");
                }
                process.ended().await;
            }
            process.require(&[Status::Stopped], "delete")?;
            let _gate = process.gate.lock().await;
            // A second delete waited here for the first.
            self.process(id)?;
            self.sandbox.delete(&id.container).await;
            lock(&self.table).slots.remove(&id.container);
        } else {
            let _gate = process.gate.lock().await;
            self.process(id)?;
            process.require(&[Status::Stopped, Status::Created], "delete")?;
            self.sandbox.delete_exec(id).await;
            lock(&task.execs).remove(&id.exec);
        }
        let ended = process.set_ended(Exit { status: 0, oom_killed: false });
        let pid = process.state().pid;
        if id.is_init() {
            self.publish(TaskDelete {
                container_id: id.container.clone(),
                pid,
                exit_status: ended.exit.status,
                exited_at: Some(ended.at.into()).into(),
                ..Default::default()
            });
            failpoint!("delete.told");
        }
        Ok(Deleted { pid, ended })
    }
}

fn create_event(new: &NewContainer) -> TaskCreate {
    let io = TaskIO {
        stdin: new.stdio.stdin.clone(),
        stdout: new.stdio.stdout.clone(),
        stderr: new.stdio.stderr.clone(),
        terminal: new.stdio.terminal,
        ..Default::default()
    };
    TaskCreate {
        container_id: new.id.clone(),
        bundle: new.bundle.display().to_string(),
        rootfs: new.rootfs.iter().map(Mount::clone).collect(),
        io: Some(io).into(),
        ..Default::default()
    }
}
