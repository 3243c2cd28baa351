//! Calls that no vmm makes, with zeros for arguments: the filter kills before the kernel looks at them, and without the
//! filter they fail and harm nothing.

use syscalls::Sysno;

use super::{Try, done, one};
use crate::attempt::{call, note, raw};

/// `__X32_SYSCALL_BIT` of asm/unistd.h: a second way to most calls.
const X32: libc::c_long = 0x4000_0000;

/// A try for each call, with its name.
macro_rules! zeros {
    ($($name:ident)*) => {
        &[$(one(stringify!($name), || done(call(Sysno::$name, &[])))),*, one("read by x32", || {
            note("x32");
            done(raw(libc::SYS_read | X32, &[usize::MAX]))
        })]
    };
}

pub const TRIES: &[Try] = zeros! {
    mount umount2 pivot_root chroot fsopen fsconfig fsmount fspick open_tree move_mount mount_setattr
    name_to_handle_at open_by_handle_at openat2 open creat access faccessat faccessat2 readlink chdir fchdir
    ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_open pidfd_getfd pidfd_send_signal
    tkill rt_sigqueueinfo rt_tgsigqueueinfo wait4 waitid getppid setsid setpgid
    execve execveat personality seccomp memfd_create memfd_secret userfaultfd
    setuid setgid setreuid setregid setgroups setfsuid setfsgid
    sched_setscheduler sched_setattr sched_setaffinity setpriority ioprio_set setrlimit
    io_uring_setup io_uring_enter io_uring_register bpf perf_event_open add_key request_key keyctl
    init_module finit_module delete_module kexec_load kexec_file_load reboot syslog acct swapon swapoff
    quotactl quotactl_fd sethostname setdomainname settimeofday clock_settime adjtimex clock_adjtime
    iopl ioperm modify_ldt arch_prctl vhangup lookup_dcookie
    inotify_init1 inotify_init fanotify_init mq_open msgget semget shmget timer_create timerfd_create signalfd4
    pipe2 socketpair sendmsg recvmsg sendmmsg recvmmsg splice tee vmsplice sendfile io_setup
    landlock_create_ruleset landlock_restrict_self mlock mlockall mbind set_mempolicy migrate_pages move_pages
    pkey_mprotect remap_file_pages uname sysinfo getrusage times flock
};
