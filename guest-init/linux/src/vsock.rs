//! Dialling the host over vsock.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// The host's context id.
const HOST_CID: u32 = libc::VMADDR_CID_HOST;

/// Bytes that the host may send before this side reads. The guest protocol never has so many on the way, but a small packet
/// costs more than its size (libkrun #795).
static BUFFER_SIZE: u64 = 4 << 20;

/// `SO_VM_SOCKETS_BUFFER_SIZE` and `SO_VM_SOCKETS_BUFFER_MAX_SIZE` of linux/vm_sockets.h.
const SO_BUFFER_SIZE: libc::c_int = 0;
const SO_BUFFER_MAX_SIZE: libc::c_int = 2;

/// `SO_VM_SOCKETS_CONNECT_TIMEOUT` of linux/vm_sockets.h, for a 64-bit `timeval`.
const SO_CONNECT_TIMEOUT: libc::c_int = 6;

/// How long the host may take to accept. The kernel's 2 s are too short for a host that boots many guests at once. A VM
/// that waits in vain is ended by the host's own limit for a boot.
static CONNECT_TIMEOUT: libc::timeval = libc::timeval { tv_sec: 300, tv_usec: 0 };

/// Begins to dial `port` on the host. The socket does not block; it is writable when the host has accepted or refused.
///
/// # Errors
/// When there is no vsock, or the dialling fails at once.
pub fn dial(port: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes plain numbers.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for option in [SO_BUFFER_MAX_SIZE, SO_BUFFER_SIZE] {
        // SAFETY: both options take a u64, which outlives the call.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::AF_VSOCK,
                option,
                (&raw const BUFFER_SIZE).cast(),
                size_of::<u64>() as libc::socklen_t,
            )
        };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: the option takes a timeval, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::AF_VSOCK,
            SO_CONNECT_TIMEOUT,
            (&raw const CONNECT_TIMEOUT).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeroes are a valid sockaddr_vm.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = HOST_CID;
    address.svm_port = port;
    // SAFETY: a whole sockaddr_vm of the length given.
    let done = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_vm>() as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(socket),
        _ => match io::Error::last_os_error() {
            err if err.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
            err => Err(err),
        },
    }
}
