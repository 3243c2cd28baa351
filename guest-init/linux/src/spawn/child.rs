//! The raw calls: clone3, and what the child does until exec.
//!
//! The child must never allocate, lock, panic or call anything that is not async-signal-safe.

use std::{
    ffi::{CStr, c_char, c_int},
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::{sched::CloneFlags, sys::signal::Signal};

use super::Child;
use crate::clone;

/// Last signal number of Linux (`_NSIG`, asm/signal.h).
const LAST_SIGNAL: c_int = 64;

/// The kernel's `struct sigaction` (asm/signal.h: handler, flags, restorer, mask of 64 bits) with
/// the default handler, which is zero.
static DEFAULT_ACTION: [u64; 4] = [0; 4];

/// All that the child needs, prepared by its parent.
pub struct Plan<'a> {
    pub exe: &'a CStr,
    /// Ends with a null pointer.
    pub argv: &'a [*const c_char],
    /// Ends with a null pointer.
    pub envp: &'a [*const c_char],
    /// Each to be moved to a number below all of them.
    pub fds: &'a [(OwnedFd, RawFd)],
    /// Where a failure is reported.
    pub errors: RawFd,
    pub namespaces: CloneFlags,
    /// To be copied.
    pub mount_namespace: Option<RawFd>,
    /// To be started in.
    pub cgroup: Option<RawFd>,
    /// Whether `exe` is executed from a read-only mount.
    pub read_only_exe: bool,
    /// The signal that it gets when the thread that starts it ends.
    pub death_signal: Option<Signal>,
}

/// Clones; in the parent, returns the child.
pub fn start(plan: &Plan<'_>) -> io::Result<Child> {
    // SAFETY: `run` keeps to async-signal-safe calls until exec.
    match unsafe { clone::fork(plan.namespaces, plan.cgroup) }? {
        Some((pid, pidfd)) => Ok(Child::new(pid, pidfd)),
        None => run(plan),
    }
}

/// In the child: becomes the program, or reports the step that failed and exits.
fn run(plan: &Plan<'_>) -> ! {
    let step = attempt(plan);
    let failure = Failure { step, errno: io::Error::last_os_error().raw_os_error().unwrap_or(0) };
    let report = failure.encode();
    // SAFETY: the buffer is valid for its length; the descriptor is the plan's.
    unsafe {
        libc::write(plan.errors, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

/// Returns the step that failed, with its error in errno.
fn attempt(plan: &Plan<'_>) -> Step {
    // SAFETY: async-signal-safe calls on values that the parent prepared and that this process
    // has its own copy of; argv and envp end with null pointers.
    unsafe {
        for signal in 1..=LAST_SIGNAL {
            // Past the C library, which refuses the two signals that it uses itself. Fails for
            // SIGKILL and SIGSTOP, as it should.
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT_ACTION.as_ptr(),
                ptr::null::<[u64; 4]>(),
                size_of::<u64>(),
            );
        }
        if libc::setsid() < 0 {
            return Step::Setsid;
        }
        if let Some(signal) = plan.death_signal {
            // The signal is valid: this cannot fail.
            libc::prctl(libc::PR_SET_PDEATHSIG, signal as c_int);
        }
        if let Some(namespace) = plan.mount_namespace
            && (libc::setns(namespace, libc::CLONE_NEWNS) < 0 || libc::unshare(libc::CLONE_NEWNS) < 0)
        {
            return Step::Mounts;
        }
        if plan.read_only_exe && mount_read_only(plan.exe) < 0 {
            return Step::ReadOnlyExe;
        }
        if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) < 0 {
            return Step::CloseRange;
        }
        for (fd, number) in plan.fds {
            if libc::dup2(fd.as_raw_fd(), *number) < 0 {
                return Step::Dup2;
            }
        }
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        libc::execve(plan.exe.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr());
    }
    Step::Execve
}

/// Binds a file to its own path, read-only, in the child's mount namespace only. Returns less than 0, with errno, on
/// failure.
///
/// # Safety
/// The mount namespace must be the child's own.
unsafe fn mount_read_only(path: &CStr) -> c_int {
    let (path, none) = (path.as_ptr(), ptr::null());
    let mount = |source, target, flags| {
        // SAFETY: strings, and null pointers where these flags need none.
        unsafe { libc::mount(source, target, none, flags, ptr::null()) }
    };
    let read_only = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
    // The mount must not propagate to the host.
    match mount(none, c"/".as_ptr(), libc::MS_SLAVE | libc::MS_REC) {
        0 => match mount(path, path, libc::MS_BIND) {
            0 => mount(none, path, read_only),
            failed => failed,
        },
        failed => failed,
    }
}

#[derive(Clone, Copy)]
#[repr(u8)]
enum Step {
    Setsid,
    Mounts,
    ReadOnlyExe,
    CloseRange,
    Dup2,
    Execve,
}

/// By their numbers.
const STEPS: [Step; 6] =
    [Step::Setsid, Step::Mounts, Step::ReadOnlyExe, Step::CloseRange, Step::Dup2, Step::Execve];

/// The step that failed in the child, as it crosses the pipe.
pub struct Failure {
    step: Step,
    errno: i32,
}

impl Failure {
    fn encode(&self) -> [u8; 5] {
        let [a, b, c, d] = self.errno.to_le_bytes();
        [self.step as u8, a, b, c, d]
    }

    pub fn decode(report: &[u8]) -> Option<Self> {
        let [step, errno @ ..] = *<&[u8; 5]>::try_from(report).ok()?;
        let step = *STEPS.get(usize::from(step))?;
        Some(Failure { step, errno: i32::from_le_bytes(errno) })
    }

    pub fn step(&self) -> &'static str {
        match self.step {
            Step::Setsid => "setsid",
            Step::Mounts => "copying the mount namespace",
            Step::ReadOnlyExe => "mounting it read-only",
            Step::CloseRange => "close_range",
            Step::Dup2 => "dup2",
            Step::Execve => "execve",
        }
    }

    pub fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }
}
