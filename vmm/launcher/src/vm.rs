//! A VM: its launch, its guest, and its end.
//!
//! Only this crate's own children are waited for ([`attend`]), and every one of them is reaped, here or by who [gives it away](crate::Left).

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use linux::{
    pidfd::Pidfd,
    spawn::{Child, Spawn, SpawnError},
};
use nix::{
    fcntl::OFlag,
    sched::CloneFlags,
    sys::signal::Signal,
    unistd::{Pid, pipe2},
};
use tokio::{net::unix::pipe, sync::watch, task::AbortHandle};

use crate::{
    ConfigError, ExitStatus, Guest, GuestError, VmConfig, VmEnd,
    attend::{AtEnd, attend},
    console,
    find::{self, NotFound},
    guest::{Connections, Listener},
    kvm_file::KvmFile,
    nonce, order,
    probe::{self, ProbeError},
};

/// How long a vmm that was killed may take to go.
const GONE: Duration = Duration::from_secs(10);

/// A boot that takes longer than this triggers a check of KVM.
const SLOW_BOOT: Duration = Duration::from_secs(3);

/// A vmm process and, in it, a VM.
///
/// Dropping it kills both, without waiting; a task of the runtime then reaps the process. Who wants to know that nothing is
/// left, as before the files of the VM are removed, calls [`Vm::kill`] and waits for [`Vm::ended`].
///
/// What the vmm writes to stderr is logged with the crate `log` and the target `vmm`, a line at a time and no more than some a
/// second; the last 20 lines are in [`VmEnd`]. The guest's own log has the target `guest`.
pub struct Vm {
    /// The program.
    vmm: PathBuf,
    child: Child,
    killed: Arc<AtomicBool>,
    end: watch::Receiver<Option<VmEnd>>,
    /// Taken by the call of [`Vm::guest`] that waits for the guest.
    dial: Mutex<Option<Dial>>,
    /// Closed when this process ends, for whatever reason: the vmm then ends itself.
    life: OwnedFd,
    /// Logs the stderr of the vmm, and reaps it.
    attendant: AbortHandle,
    kvm: KvmFile,
    /// The read end of its stderr, if it is to be given away.
    stderr: Option<OwnedFd>,
    /// Whether another process has it by now.
    left: AtomicBool,
}

/// How far the guest's dialling is.
enum Dial {
    Awaited(Listener),
    Done(Connections),
}

/// Why the launch failed. Nothing is left of the vmm.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// krun-vmm was not found.
    #[error(transparent)]
    NoVmm(#[from] NotFound),
    /// A file of the configuration cannot be opened.
    #[error("opening the {what} {}", path.display())]
    Open {
        /// Its purpose.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// The socket that the guest connects to cannot be made.
    #[error("listening on {}", .0.display())]
    Listen(PathBuf, #[source] io::Error),
    /// A pipe or a nonce cannot be made.
    #[error("making {0} for the vmm")]
    Prepare(&'static str, #[source] io::Error),
    /// The process cannot be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The vmm did not read its order.
    #[error("sending the vmm its order: {}", .0)]
    Order(VmEnd),
}

impl Vm {
    /// Launches a VM. Returns as soon as the vmm has its order, long before the guest runs. The program is that which
    /// [`find::krun_vmm`] finds.
    ///
    /// To be called within a tokio runtime that has its I/O and time drivers. Unless the VM is to be [given away](VmConfig::given_away),
    /// the calling thread must live as long as the VM is to: the kernel kills the vmm when the thread ends that launched it
    /// (PR_SET_PDEATHSIG(2const)). The main thread with a runtime of the current thread does, and a thread of the caller's own. A worker of a multi-threaded runtime does while the runtime lives and
    /// nothing uses `block_in_place`; the threads of `spawn_blocking` do not.
    ///
    /// # Errors
    /// When the configuration is wrong or a step fails; then nothing is left.
    pub async fn launch(config: VmConfig) -> Result<Vm, LaunchError> {
        let vmm = find::krun_vmm()?;
        Self::launch_with(&vmm, config).await
    }

    /// As [`Vm::launch`], with a given `krun-vmm`.
    ///
    /// # Errors
    /// As [`Vm::launch`].
    pub async fn launch_with(vmm: &Path, config: VmConfig) -> Result<Vm, LaunchError> {
        config.validate()?;
        let nonce = nonce::make().map_err(|error| LaunchError::Prepare("a nonce", error))?;
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| LaunchError::Prepare("a pipe", errno.into()));
        let (order_read, order_write) = pipe()?;
        let (life_read, life_write) = pipe()?;
        let (stderr_read, stderr_write) = pipe()?;
        let copy = config.given_away.then(|| stderr_read.try_clone()).transpose();
        let copy = copy.map_err(|error| LaunchError::Prepare("a pipe", error))?;
        let stderr = pipe::Receiver::from_owned_fd(stderr_read)
            .map_err(|error| LaunchError::Prepare("a pipe", error))?;

        let mut spawn = Spawn::new(vmm)
            .arg("vm")
            .fd(stderr_write, 2)
            .fd(order_read, order::ORDER_FD)
            .fd(life_read, order::LIFE_FD);
        spawn.namespaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        // A vmm that a guest has taken over must not change the program of later vmms.
        spawn.read_only_exe = true;
        // A vmm that is stopped does not see that its life pipe ends.
        spawn.death_signal = (!config.given_away).then_some(Signal::SIGKILL);
        match &config.mount_namespace {
            Some(path) => {
                spawn.mount_namespace = Some(open("mount namespace", path, File::options().read(true))?);
            }
            None => spawn.namespaces |= CloneFlags::CLONE_NEWNS,
        }
        if let Some(path) = &config.cgroup {
            spawn.cgroup = Some(open("cgroup", path, File::options().read(true))?);
        }
        if let Some(path) = &config.netns {
            spawn = spawn.fd(open("network namespace", path, File::options().read(true))?, order::NETNS_FD);
        }
        if let Some(path) = &config.debug_console {
            let file = console::open(path).map_err(|source| LaunchError::Open {
                what: "debug console",
                path: path.to_owned(),
                source,
            })?;
            let terminal =
                console::copied_to(file).map_err(|error| LaunchError::Prepare("a console", error))?;
            spawn = spawn.fd(terminal, order::CONSOLE_FD);
        }
        let mut kernel = None;
        if let Some(file) = &config.kernel {
            let inherited = file.read_only().map_err(|source| LaunchError::Open {
                what: "kernel",
                path: file.path().to_owned(),
                source,
            })?;
            spawn = spawn.fd(inherited, order::KERNEL_FD);
            kernel = Some(order::Kernel { format: file.format(), path: file.path().to_owned() });
        }
        let mut disks = Vec::new();
        for (number, disk) in (order::DISK_FD..).zip(&config.disks) {
            let inherited = disk.inherited().map_err(|error| LaunchError::Prepare("a disk", error))?;
            spawn = spawn.fd(inherited, number);
            disks.push(disk.kind().clone());
        }
        let socket = config.socket();
        let listener = Listener::bind(&socket, nonce.clone())
            .map_err(|error| LaunchError::Listen(socket.clone(), error))?;

        let child = spawn.spawn()?;
        // From here on, an early return drops the Vm, which kills the process; the task reaps it.
        let mut vm = Vm::of(vmm, child, (life_write, stderr), Dial::Awaited(listener), Box::new(()));
        vm.stderr = copy;
        if vm.send(order::Order { config, kernel, disks, nonce }, order_write).is_err() {
            vm.kill();
            return Err(LaunchError::Order(vm.ended().await));
        }
        Ok(vm)
    }

    fn of(
        vmm: &Path,
        child: Child,
        (life, stderr): (OwnedFd, pipe::Receiver),
        dial: Dial,
        until_end: Box<dyn Send>,
    ) -> Vm {
        let killed = Arc::new(AtomicBool::new(false));
        let (announce, end) = watch::channel(None);
        let kvm = KvmFile::default();
        let at_end = AtEnd { until_end, announce, kvm: kvm.clone() };
        let attendant = tokio::spawn(attend(child.clone(), stderr, killed.clone(), at_end));
        Vm {
            vmm: vmm.to_owned(),
            child,
            killed,
            end,
            dial: Mutex::new(Some(dial)),
            life,
            attendant: attendant.abort_handle(),
            kvm,
            stderr: None,
            left: AtomicBool::new(false),
        }
    }

    /// Writes the order and closes the pipe. This does not block: an order is far smaller than a pipe's buffer.
    fn send(&self, order: order::Order, pipe: OwnedFd) -> io::Result<()> {
        File::from(pipe).write_all(&serde_json::to_vec(&order)?)
    }

    /// The vmm's pid on the host. After [`Vm::ended`] it may be another process's.
    pub fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// Whether the vmm has ended, also if that was not announced yet.
    pub fn has_ended(&self) -> bool {
        self.child.pidfd().ends_within(Duration::ZERO).unwrap_or(true)
    }

    /// Has the kernel kill the vmm sooner (up to 1000) or later (down to -1000) than other processes when memory runs out, as
    /// proc_pid_oom_score_adj(5) says. A vmm that has ended takes no notice.
    ///
    /// # Errors
    /// The kernel's, which wants `CAP_SYS_RESOURCE` for less than before.
    pub fn set_oom_score_adj(&self, score: i32) -> io::Result<()> {
        self.child.set_oom_score_adj(score)
    }

    /// Kills the vmm and with it the VM. Can be called at any time, and repeatedly. What the guest has not written to the share
    /// by then is lost: containers are ended first by a call of the guest.
    pub fn kill(&self) {
        if self.end.borrow().is_none() {
            self.killed.store(true, Ordering::Relaxed);
            self.child.kill(Signal::SIGKILL);
        }
    }

    /// Waits until the vmm has ended. Any number of callers can wait.
    pub async fn ended(&self) -> VmEnd {
        ended(self.end.clone()).await
    }

    /// Waits until the guest connects, for at most `boot_timeout`. It can be called once, because it closes and removes the
    /// socket. The VM lives on when it fails.
    ///
    /// A boot takes half a second where KVM works; one that takes longer than 3 s has [`probe::guest`] look whether it does.
    ///
    /// # Errors
    /// When the vmm ends first, or `boot_timeout` passes first; when KVM cannot run guests, or the guest breaks the protocol.
    pub async fn guest(&self, boot_timeout: Duration) -> Result<Guest, GuestError> {
        let guest = self.connections(boot_timeout).await.map(Guest::from)?;
        self.kvm.take(self.process());
        Ok(guest)
    }

    pub(crate) async fn connections(&self, boot_timeout: Duration) -> Result<Connections, GuestError> {
        let dial = self.dial.lock().unwrap_or_else(PoisonError::into_inner).take();
        let listener = match dial.ok_or(GuestError::Taken)? {
            Dial::Awaited(listener) => listener,
            Dial::Done(connections) => return Ok(connections),
        };
        tokio::select! {
            // If the guest connected and the VM ended, the end is the news.
            biased;
            end = self.ended() => Err(GuestError::Ended(end)),
            connections = listener.connections() => connections,
            error = self.kvm_cannot() => Err(error),
            () = tokio::time::sleep(boot_timeout) => Err(GuestError::Timeout(boot_timeout)),
        }
    }

    /// A VM that another process has booted: see [`crate::Waiting`].
    pub(crate) fn adopt(
        vmm: &Path,
        process: Pidfd,
        (life, stderr): (OwnedFd, OwnedFd),
        connections: Connections,
        until_end: Box<dyn Send>,
    ) -> io::Result<Vm> {
        let stderr = pipe::Receiver::from_owned_fd(stderr)?;
        Ok(Vm::of(vmm, Child::of_another(process)?, (life, stderr), Dial::Done(connections), until_end))
    }

    /// Leaves the process to who has copies of its descriptors by now.
    pub(crate) fn leave(self) -> Child {
        self.attendant.abort();
        self.left.store(true, Ordering::Relaxed);
        self.child.clone()
    }

    /// Kills it, and waits until its process is gone, for 10 s at most.
    pub async fn end(&self) {
        self.kill();
        if tokio::time::timeout(GONE, self.ended()).await.is_err() {
            log::warn!(target: "vmm", "{}: it was killed and has not gone within {GONE:?}", self.pid());
        }
    }

    pub(crate) fn until_end(&self) -> impl Future<Output = VmEnd> + Send + 'static {
        ended(self.end.clone())
    }

    pub(crate) fn end_of(&self) -> Option<VmEnd> {
        self.end.borrow().clone()
    }

    pub(crate) fn process(&self) -> &Pidfd {
        self.child.pidfd()
    }

    /// The read end of the vmm's stderr, once, if it is to be given away.
    pub(crate) fn take_stderr(&mut self) -> Option<OwnedFd> {
        self.stderr.take()
    }

    pub(crate) fn life(&self) -> &OwnedFd {
        &self.life
    }
}

impl Vm {
    /// Checks during a slow boot whether KVM can run guests at all: on some machines it takes 15 s to fail. Returns only if
    /// it cannot.
    async fn kvm_cannot(&self) -> GuestError {
        tokio::time::sleep(SLOW_BOOT).await;
        let vmm = self.vmm.clone();
        match tokio::task::spawn_blocking(move || probe::guest_with(&vmm)).await {
            Ok(Err(error @ ProbeError::CannotRun(_))) => error.into(),
            // KVM works, or the check failed: the host may just be busy.
            _ => std::future::pending().await,
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if !self.left.load(Ordering::Relaxed) {
            self.kill();
        }
    }
}

fn open(what: &'static str, path: &Path, options: &std::fs::OpenOptions) -> Result<OwnedFd, LaunchError> {
    let file =
        options.open(path).map_err(|source| LaunchError::Open { what, path: path.to_owned(), source })?;
    Ok(file.into())
}

async fn ended(mut end: watch::Receiver<Option<VmEnd>>) -> VmEnd {
    match end.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(end)) => end.clone(),
        // The task that watches the process was cancelled: the runtime is shutting down, or the VM was left to another process.
        _ => VmEnd::new(ExitStatus::Unknown, Vec::new(), false),
    }
}
