//! In a fork: enters a running container and executes one more process in it.
//!
//! libcontainer's builder for this drops the seccomp filter, so this does every step itself, in runc's order: cgroup,
//! namespaces, terminal, limits, user, capabilities, filter. The process is not dumpable until the last step, so that
//! nothing in the container can look into it.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use libcontainer::capabilities;
use libcontainer::oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp, PosixRlimit, Process};
use libcontainer::seccomp::initialize_seccomp;
use libcontainer::syscall::syscall::create_syscall;
use nix::errno::Errno;

use crate::cgroup;
use crate::io::{console, terminal};
use crate::process::{
    env,
    executor::execute,
    fork::{Report, Reporter},
    limits, lookup,
};
use crate::rpc::fault::{Refusal, errno_text};

/// Extra descriptors of the fork, in the order in which the parent lists them.
pub const INIT_PIDFD: RawFd = 4;
pub const CONSOLE_FD: RawFd = 5;

/// What to execute, and what it shares with the container.
pub struct Job {
    pub process: Process,
    pub capabilities: LinuxCapabilities,
    pub rlimits: Vec<PosixRlimit>,
    pub seccomp: Option<LinuxSeccomp>,
    /// CLONE_NEW* of each namespace of the container that is not PID 1's.
    pub namespaces: libc::c_int,
    /// The cgroups to join.
    pub cgroups: cgroup::Places,
}

/// Runs in the fork; its fds 0-2 are the process's, unless it gets a terminal.
pub fn run(job: &Job, reporter: &Reporter) -> i32 {
    match enter(job).and_then(|()| second_fork(job, reporter)) {
        Ok(pid) => {
            reporter.send(&Report::Pid(pid));
            0
        }
        Err(err) => {
            reporter.send(&Report::Failed(Refusal::of(&err)));
            1
        }
    }
}

/// Moves this process into the container. A PID namespace takes only the children that it makes from then on.
fn enter(job: &Job) -> Result<()> {
    // SAFETY: takes plain numbers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).context("hide from ptrace")?;
    if let Some(score) = job.process.oom_score_adj() {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .with_context(|| format!("set oom_score_adj to {score}"))?;
    }
    cgroup::join(&job.cgroups)?;
    limits::allow(&job.rlimits)?;
    // SAFETY: takes plain numbers.
    Errno::result(unsafe { libc::setns(INIT_PIDFD, job.namespaces) })
        .context("join the container's namespaces")?;
    if job.namespaces & libc::CLONE_NEWUSER != 0 {
        become_its_root()?;
    }
    Ok(())
}

/// The root outside is nobody in a user namespace, and may neither own nor make files there.
fn become_its_root() -> Result<()> {
    // SAFETY: no list, and plain numbers.
    let groups = unsafe { libc::setgroups(0, std::ptr::null()) };
    // SAFETY: takes plain numbers.
    let group = || Errno::result(unsafe { libc::setresgid(0, 0, 0) });
    // SAFETY: takes plain numbers.
    let user = || Errno::result(unsafe { libc::setresuid(0, 0, 0) });
    Errno::result(groups)
        .and_then(|_| group())
        .and_then(|_| user())
        .context("become the container's root")?;
    Ok(())
}

fn second_fork(job: &Job, reporter: &Reporter) -> Result<i32> {
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("fork in the container"),
        0 => {
            let Err(err) = become_process(job);
            reporter.send(&Report::Failed(Refusal::of(&err)));
            // SAFETY: ends the process without running exit handlers of PID 1's image.
            unsafe { libc::_exit(255) }
        }
        pid => Ok(pid),
    }
}

fn become_process(job: &Job) -> Result<Infallible> {
    let process = &job.process;
    nix::unistd::setsid().context("start a session")?;
    if process.terminal() == Some(true) {
        let (master, slave) = terminal::open(process.user().uid(), process.console_size())?;
        console::send(CONSOLE_FD, master.as_raw_fd()).context("send the terminal to PID 1")?;
        take_terminal(&slave)?;
    }
    limits::set(&job.rlimits)?;
    let umask = process.user().umask().unwrap_or(0o022);
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
    let home = env::home(process.user().uid());
    // As root first: the path may lead through directories that the user cannot enter. Then as the user: some file
    // systems let root in nowhere.
    let entered = change_directory(process);
    become_user(process)?;
    if entered.is_err() {
        change_directory(process)?;
    }
    let no_new_privileges = process.no_new_privileges() == Some(true);
    if no_new_privileges {
        // SAFETY: takes plain numbers.
        Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
            .context("set no_new_privs")?;
    } else {
        load_filter(job)?;
    }
    let syscalls = create_syscall();
    capabilities::drop_privileges(&job.capabilities, syscalls.as_ref()).context("drop capabilities")?;
    if no_new_privileges {
        load_filter(job)?;
    }
    let args = process.args().as_deref().unwrap_or_default();
    let env = env::prepare(process.env().as_deref().unwrap_or_default(), home.as_deref());
    let path = lookup::executable(args.first().map_or("", String::as_str), &env)?;
    let Err(why) = execute(&path, args, &env);
    Err(why.into())
}

fn take_terminal(slave: &OwnedFd) -> Result<()> {
    // SAFETY: takes an open descriptor and plain numbers.
    Errno::result(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) })
        .context("make the terminal the session's")?;
    for fd in 0..=2 {
        // SAFETY: nothing in this process owns fds 0-2.
        Errno::result(unsafe { libc::dup2(slave.as_raw_fd(), fd) }).context("make the terminal stdio")?;
    }
    Ok(())
}

fn change_directory(process: &Process) -> Result<()> {
    let cwd = process.cwd();
    std::env::set_current_dir(cwd).map_err(|err| {
        let text = format!("chdir to cwd ({:?}) failed: {}", cwd.display().to_string(), errno_text(&err));
        Refusal::of_directory(&err, text).into()
    })
}

/// Changes to the process's user and groups, keeping the capabilities for the steps that follow.
fn become_user(process: &Process) -> Result<()> {
    let (uid, gid) = (process.user().uid(), process.user().gid());
    let groups = process.user().additional_gids().as_deref().unwrap_or_default();
    // SAFETY: a list and its length.
    Errno::result(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })
        .with_context(|| format!("set the groups {groups:?}"))?;
    keep_capabilities(true)?;
    // SAFETY: takes plain numbers.
    Errno::result(unsafe { libc::setresgid(gid, gid, gid) })
        .with_context(|| format!("become group {gid}"))?;
    // SAFETY: takes plain numbers.
    Errno::result(unsafe { libc::setresuid(uid, uid, uid) }).with_context(|| format!("become user {uid}"))?;
    capabilities::reset_effective(create_syscall().as_ref()).context("keep the effective capabilities")?;
    keep_capabilities(false)
}

fn keep_capabilities(keep: bool) -> Result<()> {
    // SAFETY: takes plain numbers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(keep), 0, 0, 0) })
        .context("keep capabilities across the change of user")?;
    Ok(())
}

fn load_filter(job: &Job) -> Result<()> {
    match &job.seccomp {
        Some(filter) => initialize_seccomp(filter).map(drop).context("load the seccomp filter"),
        None => Ok(()),
    }
}
