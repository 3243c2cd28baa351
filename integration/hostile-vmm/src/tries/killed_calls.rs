// The calls that no vmm makes, each of which kills it. krun-hostile-vmm makes them with zeros, and the scenarios expect its end:
// who includes this has a macro of this name.
killed_calls! {
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
}
