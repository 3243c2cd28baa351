//! Starts a program in namespaces of its own, with chosen descriptors.
//!
//! Between clone and exec the child (`child.rs`) is a copy of one thread of a threaded process and must only make system
//! calls, so its parent prepares all that it needs. The program starts with default signal dispositions, an empty signal
//! mask, a session of its own, and only the descriptors that are listed; of 0, 1 and 2 the others are /dev/null.

mod child;

use std::{
    ffi::{CString, NulError, OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl, openat},
    sched::CloneFlags,
    sys::{signal::Signal, stat::Mode},
    unistd::{Pid, pipe2},
};

use crate::{
    pidfd::{ExitStatus, Pidfd},
    wait,
};
use child::{Failure, Plan};

/// How long one look at a process may take that has not ended.
const LONG: Duration = Duration::from_secs(3600);

/// A program to start.
#[derive(Debug)]
pub struct Spawn {
    /// The executable's path. PATH is not searched.
    pub exe: PathBuf,
    /// Arguments after the first, which is `exe`.
    pub args: Vec<OsString>,
    /// The whole environment, as (name, value).
    pub env: Vec<(OsString, OsString)>,
    /// Descriptors that the program gets, each with its number there.
    pub fds: Vec<(OwnedFd, RawFd)>,
    /// Namespaces to make for it (CLONE_NEW*).
    pub namespaces: CloneFlags,
    /// Its mount namespace becomes a copy of this one, in which `exe` is looked up.
    pub mount_namespace: Option<OwnedFd>,
    /// The directory of the cgroup (version 2) to start it in. A move later would wait for a grace period of RCU.
    pub cgroup: Option<OwnedFd>,
    /// Execute `exe` from a read-only mount, so that the program cannot write or change its own file through
    /// /proc/self/exe, whatever its capabilities (compare CVE-2019-5736). It needs a mount namespace of its own.
    pub read_only_exe: bool,
    /// The signal that the kernel sends it when the thread that starts it ends: also to a stopped process, which reads no end
    /// of a pipe. Only for a thread that lives as long as its process. Source: PR_SET_PDEATHSIG(2const).
    pub death_signal: Option<Signal>,
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A path, argument or variable with a zero byte.
    #[error("preparing to start {}", .0.display())]
    Zero(PathBuf, #[source] NulError),
    /// Descriptors could not be prepared.
    #[error("preparing descriptors to start {}", .0.display())]
    Descriptors(PathBuf, #[source] io::Error),
    /// clone3 failed.
    #[error("clone3 to start {}", .0.display())]
    Clone(PathBuf, #[source] io::Error),
    /// The child failed before it became the program.
    #[error("starting {}: {step}", exe.display())]
    Child {
        /// The program.
        exe: PathBuf,
        /// The call that failed.
        step: &'static str,
        /// Its errno.
        #[source]
        source: io::Error,
    },
}

impl Spawn {
    /// Starts from nothing but the executable.
    pub fn new(exe: impl Into<PathBuf>) -> Self {
        Spawn {
            exe: exe.into(),
            args: Vec::new(),
            env: Vec::new(),
            fds: Vec::new(),
            namespaces: CloneFlags::empty(),
            mount_namespace: None,
            cgroup: None,
            read_only_exe: false,
            death_signal: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds a descriptor, with its number in the program.
    pub fn fd(mut self, fd: impl Into<OwnedFd>, number: RawFd) -> Self {
        self.fds.push((fd.into(), number));
        self
    }

    /// Starts the program, and returns once it has been executed.
    ///
    /// # Errors
    /// When any step up to and including exec failed; then no process is left.
    pub fn spawn(self) -> Result<Child, SpawnError> {
        let exe = self.exe.clone();
        let strings = Strings::new(&self).map_err(|nul| SpawnError::Zero(exe.clone(), nul))?;
        let prepared = self.descriptors().map_err(|error| SpawnError::Descriptors(exe.clone(), error))?;
        let (argv, envp) = (pointers(&strings.argv), pointers(&strings.envp));
        let plan = Plan {
            exe: &strings.argv[0],
            argv: &argv,
            envp: &envp,
            fds: &prepared.moves,
            errors: prepared.errors_write.as_raw_fd(),
            namespaces: self.namespaces,
            mount_namespace: self.mount_namespace.as_ref().map(AsRawFd::as_raw_fd),
            cgroup: self.cgroup.as_ref().map(AsRawFd::as_raw_fd),
            read_only_exe: self.read_only_exe,
            death_signal: self.death_signal,
        };
        let child = child::start(&plan).map_err(|error| SpawnError::Clone(exe.clone(), error))?;
        drop(prepared.errors_write);
        let mut report = Vec::new();
        // No message: exec closed the pipe. A read error is treated as one that cannot happen.
        let _ = File::from(prepared.errors_read).read_to_end(&mut report);
        match Failure::decode(&report) {
            None => Ok(child),
            Some(failure) => {
                let _ = child.wait();
                Err(SpawnError::Child { exe, step: failure.step(), source: failure.error() })
            }
        }
    }

    /// Copies of all descriptors, numbered above every number wanted, so that moving one into
    /// place never overwrites another.
    fn descriptors(&self) -> io::Result<Descriptors> {
        let floor = self.fds.iter().map(|(_, number)| number + 1).max().unwrap_or(0).max(3);
        let above = |fd: BorrowedFd<'_>| -> io::Result<OwnedFd> {
            let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(floor))?;
            // SAFETY: the descriptor was made by the call above and belongs to nobody else.
            Ok(unsafe { OwnedFd::from_raw_fd(copy) })
        };
        let (errors_read, errors_write) = pipe2(OFlag::O_CLOEXEC)?;
        let errors_write = above(errors_write.as_fd())?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let mut moves = Vec::new();
        for number in (0..3).filter(|number| !self.fds.iter().any(|(_, given)| given == number)) {
            moves.push((above(null.as_fd())?, number));
        }
        for (fd, number) in &self.fds {
            moves.push((above(fd.as_fd())?, *number));
        }
        Ok(Descriptors { moves, errors_read, errors_write })
    }
}

struct Descriptors {
    moves: Vec<(OwnedFd, RawFd)>,
    errors_read: OwnedFd,
    errors_write: OwnedFd,
}

struct Strings {
    argv: Vec<CString>,
    envp: Vec<CString>,
}

impl Strings {
    fn new(spawn: &Spawn) -> Result<Self, NulError> {
        let argv = std::iter::once(spawn.exe.as_os_str())
            .chain(spawn.args.iter().map(OsString::as_os_str))
            .map(|arg| CString::new(arg.as_bytes()))
            .collect::<Result<_, _>>()?;
        let envp = spawn
            .env
            .iter()
            .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<Result<_, _>>()?;
        Ok(Strings { argv, envp })
    }
}

/// The array that execve wants; it borrows from `strings`.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// A process that was started. Dropping it leaves the process alone.
#[derive(Debug, Clone)]
pub struct Child(Arc<Process>);

#[derive(Debug)]
struct Process {
    pid: Pid,
    pidfd: Pidfd,
    /// Set once the process has been reaped.
    status: Mutex<Option<ExitStatus>>,
    /// Its directory in /proc, if it is another process's child.
    directory: Option<OwnedFd>,
}

impl Child {
    fn new(pid: Pid, pidfd: Pidfd) -> Self {
        Child(Arc::new(Process { pid, pidfd, status: Mutex::default(), directory: None }))
    }

    /// A process that another one started, and which has not ended. How it ends is known as long as its parent does not reap it
    /// before [`Child::wait`] looks.
    ///
    /// # Errors
    /// When it has ended.
    pub fn of_another(pidfd: Pidfd) -> io::Result<Self> {
        let (pid, directory) = (pidfd.pid()?, pidfd.proc()?);
        Ok(Child(Arc::new(Process { pid, pidfd, status: Mutex::default(), directory: Some(directory) })))
    }

    /// Its pid here.
    pub fn pid(&self) -> Pid {
        self.0.pid
    }

    /// Its pidfd.
    pub fn pidfd(&self) -> &Pidfd {
        &self.0.pidfd
    }

    /// Sends a signal; a process that has ended takes no notice.
    pub fn kill(&self, signal: Signal) {
        let _ = self.0.pidfd.signal(signal);
    }

    /// Has the kernel end it sooner (up to 1000) or later (down to -1000) than others when memory runs out, as
    /// proc_pid_oom_score_adj(5) says; a process that has ended takes no notice.
    ///
    /// # Errors
    /// The kernel's, which wants `CAP_SYS_RESOURCE` for less than before.
    pub fn set_oom_score_adj(&self, score: i32) -> io::Result<()> {
        let directory = match self.0.pidfd.proc() {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
            directory => directory?,
        };
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        File::from(openat(directory, "oom_score_adj", flags, Mode::empty())?)
            .write_all(score.to_string().as_bytes())
    }

    /// Waits until the process has ended, and reaps it if it is a child of ours. Any number may wait.
    ///
    /// # Errors
    /// When the pidfd cannot be watched.
    pub async fn ended(&self) -> io::Result<ExitStatus> {
        self.0.pidfd.ended().await?;
        self.wait()
    }

    /// As [`Child::ended`], blocking.
    ///
    /// # Errors
    /// When the wait fails.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        let mut status = self.0.status.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = *status {
            return Ok(status);
        }
        let found = match &self.0.directory {
            None => self.0.pidfd.reap()?,
            Some(directory) => {
                while !self.0.pidfd.ends_within(LONG)? {}
                // Nobody knows once its parent has reaped it.
                wait::status_of(directory).unwrap_or(ExitStatus::Unknown)
            }
        };
        *status = Some(found);
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
