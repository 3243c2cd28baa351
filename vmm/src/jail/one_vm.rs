//! A vmm makes one VM, before its guest runs. After that, none of its threads can make another: a VM is much of the host's
//! memory and, in many kernels, a thread of the kernel that no cgroup limits.
//!
//! Only after the first may the call be forbidden, and libkrun tells nobody when that is. So this module replaces `ioctl`,
//! and passes every request on.

use std::{
    ffi::{c_int, c_ulong, c_void},
    io,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use seccompiler::BpfProgram;

/// `KVM_CREATE_VM` of linux/kvm.h.
pub const CREATE_VM: u32 = 0xae01;

/// The filter for afterwards. Without one, this process may make any number.
static AFTERWARDS: OnceLock<BpfProgram> = OnceLock::new();

/// Whether the VM was made.
static MADE: AtomicBool = AtomicBool::new(false);

/// Has this filter installed when the VM is made.
pub fn expect(afterwards: BpfProgram) {
    // A process enters its jail once.
    let _ = AFTERWARDS.set(afterwards);
}

/// Replaces the C library's `ioctl`.
///
/// # Safety
/// As ioctl(2).
// SAFETY: it keeps the contract of the function that it stands in for: an argument that the caller did not give is not read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) } as c_int;
    if result >= 0
        && request as u32 == CREATE_VM
        && let Some(filter) = AFTERWARDS.get()
        && !MADE.swap(true, Ordering::Relaxed)
        && let Err(error) = install(filter)
    {
        eprintln!("krun-vmm: forbidding a second VM: {error}");
        // SAFETY: a descriptor that nobody knows yet, and this thread's errno.
        unsafe {
            libc::close(result);
            *libc::__errno_location() = libc::EPERM;
        }
        return -1;
    }
    result
}

/// Installs a filter for all threads.
pub fn install(filter: &BpfProgram) -> io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(io::Error::other)?;
    // seccompiler's instructions are laid out as the kernel's.
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut().cast() };
    let (operation, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: a program, with its length. A positive answer is a thread that has other filters.
    match unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) } {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!("thread {thread} has other filters"))),
    }
}
