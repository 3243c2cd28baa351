//! Each call is made in a child process, with the filters and without: what the filters kill must work, or fail in another
//! way, without them.

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};

use super::*;

/// A system call: its number and arguments.
type Call<'a> = (c_long, &'a [c_long]);

/// How a child ended that made a call: killed by this signal, or with this exit status, 0 for success or an errno.
#[derive(Debug, PartialEq)]
enum End {
    Killed(i32),
    Exited(i32),
}

const SIGSYS: End = End::Killed(libc::SIGSYS);

fn child(filters: Option<&[BpfProgram; 3]>, call: Call<'_>) -> End {
    child_with(|| filters.into_iter().flatten().all(|program| apply_filter(program).is_ok()), call)
}

/// As [`child`], with what installs its filters: it must only make system calls.
fn child_with(install: impl FnOnce() -> bool, (number, arguments): Call<'_>) -> End {
    let argument = |index| arguments.get(index).copied().unwrap_or(0);
    let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(argument);
    // SAFETY: the child only makes system calls.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let installed = install();
            // SAFETY: numbers and null pointers, in a child that ends afterwards.
            let result = unsafe { if installed { libc::syscall(number, a, b, c, d, e, f) } else { -1 } };
            let errno = if result < 0 { nix::errno::Errno::last_raw() } else { 0 };
            // SAFETY: ends the child, without handlers.
            unsafe { libc::_exit(errno) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, status) => End::Exited(status),
            WaitStatus::Signaled(_, signal, _) => End::Killed(signal as i32),
            other => panic!("{other:?}"),
        },
    }
}

/// How the call ends with the filters of a VM with this network, and without filters.
fn with_and_without(network: &Network, call: Call<'_>) -> (End, End) {
    let programs = programs(network, false, false).unwrap();
    (child(Some(&programs), call), child(None, call))
}

fn kills(network: &Network, call: Call<'_>) {
    let (with, without) = with_and_without(network, call);
    assert_eq!(with, SIGSYS, "{network:?} {call:?}");
    assert_ne!(without, SIGSYS, "{call:?}");
}

#[test]
fn other_calls_kill_the_process() {
    let numbers = [
        libc::SYS_getppid,
        libc::SYS_uname,
        libc::SYS_inotify_init1,
        libc::SYS_socketpair,
        libc::SYS_kill,
        libc::SYS_io_uring_setup,
        libc::SYS_execve,
        libc::SYS_memfd_create,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_bpf,
        libc::SYS_open_by_handle_at,
        // From here on, a second way to most calls: `__X32_SYSCALL_BIT` of asm/unistd.h.
        libc::SYS_read | 0x4000_0000,
    ];
    for number in numbers {
        kills(&Network::Tsi, (number, &[]));
    }
}

#[test]
fn arguments_that_no_vmm_needs_kill_the_process() {
    let executable = c_long::from(libc::PROT_READ | libc::PROT_EXEC);
    let anonymous = c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let parent = c_long::from(nix::unistd::getppid().as_raw());
    let calls: [Call<'_>; 8] = [
        (libc::SYS_mprotect, &[0, 0, executable]),
        (libc::SYS_mmap, &[0, 4096, executable, anonymous, -1, 0]),
        (libc::SYS_ioctl, &[0, libc::TIOCSTI as c_long]),
        (libc::SYS_prctl, &[libc::PR_GET_DUMPABLE.into()]),
        (libc::SYS_fcntl, &[0, libc::F_GETOWN.into()]),
        (libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE.into(), 8]),
        (libc::SYS_tgkill, &[parent, parent]),
        (libc::SYS_setresuid, &[0, -1, -1]),
    ];
    for call in calls {
        kills(&Network::Tsi, call);
    }
}

#[test]
fn the_network_decides_on_sockets() {
    let socket = |family: i32, kind: i32| [family, kind].map(c_long::from);
    for (network, ip) in [(Network::Tsi, true), (Network::None, false), (Network::Tap(Vec::new()), false)] {
        for (family, kind) in [(libc::AF_INET, libc::SOCK_STREAM), (libc::AF_INET6, libc::SOCK_DGRAM)] {
            let (with, _) = with_and_without(&network, (libc::SYS_socket, &socket(family, kind)));
            assert_eq!(with != SIGSYS, ip, "{network:?}");
        }
        let unix = with_and_without(&network, (libc::SYS_socket, &socket(libc::AF_UNIX, libc::SOCK_STREAM)));
        assert_eq!(unix.0, End::Exited(0), "{network:?}");
        for (family, kind) in [
            (libc::AF_VSOCK, libc::SOCK_STREAM),
            (libc::AF_NETLINK, libc::SOCK_RAW),
            (libc::AF_PACKET, libc::SOCK_RAW),
            (libc::AF_ALG, libc::SOCK_SEQPACKET),
            (libc::AF_INET, libc::SOCK_RAW),
            (libc::AF_UNIX, libc::SOCK_DGRAM),
        ] {
            kills(&network, (libc::SYS_socket, &socket(family, kind)));
        }
    }
}

#[test]
fn a_clone_that_makes_a_process_kills_and_one_that_makes_a_thread_does_not() {
    for flags in [libc::SIGCHLD, THREAD | libc::CLONE_NEWUSER, libc::CLONE_NEWNET | libc::SIGCHLD] {
        let with =
            child(Some(&programs(&Network::None, false, false).unwrap()), (libc::SYS_clone, &[flags.into()]));
        assert_eq!(with, SIGSYS, "{flags:x}");
    }
    let (with, without) = with_and_without(&Network::None, (libc::SYS_clone3, &[]));
    assert_eq!(with, End::Exited(libc::ENOSYS));
    assert_ne!(without, with);
    let programs = programs(&Network::None, false, false).unwrap();
    std::thread::spawn(move || {
        programs.iter().for_each(|program| apply_filter(program).unwrap());
        std::thread::Builder::new().name("another".into()).spawn(|| ()).unwrap().join().unwrap();
        std::fs::read("/etc/passwd").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
    })
    .join()
    .unwrap();
}

#[test]
fn no_call_is_listed_twice() {
    let listed: std::collections::BTreeSet<_> = calls::ANY.iter().chain(&calls::TSI).collect();
    assert_eq!(listed.len(), calls::ANY.len() + calls::TSI.len());
}

#[test]
fn after_its_vm_a_process_makes_no_other_and_no_filter() {
    let set = [libc::SECCOMP_SET_MODE_FILTER.into(), libc::SECCOMP_FILTER_FLAG_TSYNC as c_long];
    let another: Call<'_> = (libc::SYS_ioctl, &[-1, 0xae01]);
    let run: Call<'_> = (libc::SYS_ioctl, &[-1, 0xae80]);
    let (programs, later) = (programs(&Network::None, false, false).unwrap(), afterwards().unwrap());
    let afterwards = |call| {
        child_with(
            || programs.iter().all(|p| apply_filter(p).is_ok()) && one_vm::install(&later).is_ok(),
            call,
        )
    };
    assert_eq!(child(Some(&programs), another), End::Exited(libc::EBADF));
    assert_eq!(afterwards(another), SIGSYS);
    // No program: the kernel refuses it.
    assert_eq!(child(Some(&programs), (libc::SYS_seccomp, &set)), End::Exited(libc::EFAULT));
    assert_eq!(child(Some(&programs), (libc::SYS_seccomp, &set[..1])), SIGSYS);
    assert_eq!(afterwards((libc::SYS_seccomp, &set)), SIGSYS);
    assert_eq!(afterwards(run), End::Exited(libc::EBADF));
}

#[test]
fn a_change_of_owner_to_no_one_succeeds_and_does_nothing() {
    let owner = |uid: u32, gid: u32| [-1, 0, uid.into(), gid.into(), 0];
    let programs = programs(&Network::None, false, false).unwrap();
    let with = |arguments: &[c_long]| child(Some(&programs), (libc::SYS_fchownat, arguments));
    assert_eq!(with(&owner(UNCHANGED_OWNER, UNCHANGED_OWNER)), End::Exited(0));
    // Others reach the kernel, which finds no path there.
    for (uid, gid) in [(UNCHANGED_OWNER, 0), (0, UNCHANGED_OWNER), (UNCHANGED, UNCHANGED), (0, 0)] {
        assert_eq!(with(&owner(uid, gid)), End::Exited(libc::EFAULT), "{uid} {gid}");
    }
}
