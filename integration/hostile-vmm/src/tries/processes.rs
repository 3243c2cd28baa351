//! Other processes, namespaces, and more rights for its own.

use syscalls::Sysno;

use super::{Outcome, Try, done, one};
use crate::attempt::{call, volume};

/// "Leave it as it is", of setresuid(2).
const UNCHANGED: usize = u32::MAX as usize;

pub const TRIES: &[Try] = &[
    one("processes in /proc", processes),
    one("fork", || clone(0)),
    one("clone into a user namespace", || clone(libc::CLONE_NEWUSER)),
    one("clone into a mount namespace", || clone(libc::CLONE_NEWNS)),
    one("clone into a network namespace", || clone(libc::CLONE_NEWNET)),
    one("clone a thread that is traced", || {
        let thread = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_PTRACE;
        done(call(Sysno::clone, &[thread as usize]))
    }),
    // Larger than a page: with a structure it would make a process.
    one("clone3", || done(call(Sysno::clone3, &[0, 8192]))),
    one("unshare a user namespace", || unshare(libc::CLONE_NEWUSER)),
    one("unshare a mount namespace", || unshare(libc::CLONE_NEWNS)),
    one("unshare a network namespace", || unshare(libc::CLONE_NEWNET)),
    one("setns of a descriptor", || done(call(Sysno::setns, &[2, 0]))),
    one("signal every process", || done(call(Sysno::kill, &[usize::MAX, 0]))),
    one("signal another process by tgkill", || done(call(Sysno::tgkill, &[5000, 5000, 0]))),
    one("signal itself", || {
        let own = call(Sysno::getpid, &[])?;
        done(call(Sysno::tgkill, &[own, own, 0]))
    }),
    one("execute a file in memory", || {
        let file = call(Sysno::memfd_create, &[c"program".as_ptr() as usize, 0])?;
        done(call(Sysno::execveat, &[file, c"".as_ptr() as usize, 0, 0, libc::AT_EMPTY_PATH as usize]))
    }),
    one("change its real uid", || done(call(Sysno::setresuid, &[1000, UNCHANGED, UNCHANGED]))),
    one("change its saved uid", || done(call(Sysno::setresuid, &[UNCHANGED, UNCHANGED, 1000]))),
    one("change its effective uid", || done(call(Sysno::setresuid, &[UNCHANGED, 1000, UNCHANGED]))),
    one("raise all capabilities", || {
        let header = [0x2008_0522_u32, 0];
        let data = [u32::MAX; 6];
        done(call(Sysno::capset, &[header.as_ptr() as usize, data.as_ptr() as usize]))
    }),
    one("become dumpable", || prctl(libc::PR_SET_DUMPABLE, 1)),
    one("keep its capabilities", || prctl(libc::PR_SET_KEEPCAPS, 1)),
    one("raise an ambient capability", || prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as usize)),
    one("change its securebits", || prctl(libc::PR_SET_SECUREBITS, 0)),
    one("change its filter by prctl", || prctl(libc::PR_SET_SECCOMP, 2)),
    one("name its thread", || prctl(libc::PR_SET_NAME, c"renamed".as_ptr() as usize)),
    one("raise a limit", || {
        let limit = [u64::MAX; 2];
        done(call(Sysno::prlimit64, &[0, libc::RLIMIT_NOFILE as usize, limit.as_ptr() as usize, 0]))
    }),
    one("read another process's limit", || {
        let mut limit = [0_u64; 2];
        done(call(Sysno::prlimit64, &[2, libc::RLIMIT_NOFILE as usize, 0, limit.as_mut_ptr() as usize]))
    }),
    one("mount a volume read-write again", || {
        let volume = std::ffi::CString::new(volume("")).unwrap_or_default();
        let flags = (libc::MS_REMOUNT | libc::MS_BIND) as usize;
        done(call(Sysno::mount, &[0, volume.as_ptr() as usize, 0, flags, 0]))
    }),
    one("own a descriptor's signals", || done(call(Sysno::fcntl, &[2, libc::F_SETOWN as usize, 1]))),
    one("lock a file", || done(call(Sysno::fcntl, &[2, libc::F_SETLK as usize, 0]))),
];

/// How many processes other than this one /proc shows.
fn processes() -> Outcome {
    let own = std::process::id();
    let seen =
        (1..5000).filter(|pid| *pid != own && std::fs::symlink_metadata(format!("/proc/{pid}")).is_ok());
    Ok(seen.count().to_string())
}

/// Makes a process; if there is one, it ends at once.
fn clone(flags: i32) -> Outcome {
    match call(Sysno::clone, &[(flags | libc::SIGCHLD) as usize])? {
        // SAFETY: ends the child, without handlers.
        0 => unsafe { libc::_exit(0) },
        _ => Ok(String::new()),
    }
}

fn unshare(flags: i32) -> Outcome {
    done(call(Sysno::unshare, &[flags as usize]))
}

fn prctl(option: i32, argument: usize) -> Outcome {
    done(call(Sysno::prctl, &[option as usize, argument]))
}
