//! The system calls that a vmm never needs, refused: those that make processes, make or enter namespaces, change
//! mounts, run programs, look into other processes, load code into the kernel, or reach a file by
//! a handle from outside the jail.

use std::io;

use anyhow::{Context, Result};
use libc::{EPERM, c_long};
use nix::errno::Errno;

use super::bpf::{self, Refusal};

/// Refused with EPERM, every use.
const NEVER: [c_long; 65] = [
    // Programs and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    // Namespaces and roots.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    // Mounts.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // Files by handle: with CAP_DAC_READ_SEARCH, a way to any file of the share's file system.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // The kernel.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_lookup_dcookie,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_reboot,
    libc::SYS_vhangup,
    libc::SYS_modify_ldt,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_personality,
    libc::SYS_uselib,
    libc::SYS_nfsservctl,
    // The host's name and clocks.
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    // Memory of other nodes' processes.
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
];

/// Every flag of clone(2) that makes a namespace.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

fn program() -> Vec<libc::sock_filter> {
    let mut refused: Vec<_> = NEVER.iter().map(|&number| (number, Refusal::Always(EPERM))).collect();
    let threads = Refusal::ByFirstArgument { bad: NAMESPACES, needed: libc::CLONE_THREAD as u32 };
    refused.push((libc::SYS_clone, threads));
    // Its flags are in memory, where a filter cannot look. The C library then takes clone.
    refused.push((libc::SYS_clone3, Refusal::Always(libc::ENOSYS)));
    bpf::program(&refused)
}

/// Installs the filter for this thread and those that it will make. Needs no_new_privs.
pub fn install() -> Result<()> {
    let mut program = program();
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which is valid for its length.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    Errno::result(result).map_err(io::Error::from).context("seccomp")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each in a thread of its own, which is all that the filter is installed for.
    fn jailed(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            install().unwrap();
            test();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn what_a_vmm_never_needs_is_refused() {
        jailed(|| {
            let refused = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER);
            assert_eq!(refused, Err(Errno::EPERM));
            assert!(std::process::Command::new("/bin/true").status().is_err());
            // SAFETY: refused before its arguments are looked at.
            assert_eq!(unsafe { libc::syscall(libc::SYS_bpf, 0, 0, 0) }, -1);
            assert_eq!(Errno::last(), Errno::EPERM);
        });
    }

    #[test]
    fn a_clone_that_makes_a_process_or_a_namespace_is_refused_and_a_thread_is_not() {
        jailed(|| {
            for flags in [libc::CLONE_NEWUSER, libc::CLONE_NEWNET | libc::CLONE_THREAD, libc::SIGCHLD] {
                // SAFETY: refused before there is a child.
                let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
                assert_eq!((result, Errno::last()), (-1, Errno::EPERM), "{flags:x}");
            }
            std::thread::spawn(|| ()).join().unwrap();
            std::fs::read("/etc/passwd").unwrap();
        });
    }

    #[test]
    fn no_call_is_listed_twice() {
        let mut numbers = NEVER.to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), NEVER.len());
    }
}
