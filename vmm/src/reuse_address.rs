//! Lets a TCP server of the guest bind its port again at once after it was restarted.
//!
//! libkrun's TSI binds a guest's server to the host's port without SO_REUSEADDR, even if the server set the option. The
//! bind then fails while connections of an earlier server are in TIME_WAIT, for a minute, and the guest gets no error.
//! So this module replaces `bind` and sets the option first, as nearly every server does.

use std::{ffi::c_int, mem, ptr};

use libc::{SO_REUSEADDR, SO_TYPE, SOCK_STREAM, SOL_SOCKET, c_void, sockaddr, socklen_t};

/// Replaces the C library's `bind`: sets SO_REUSEADDR on stream sockets. On others it would let two servers share a port.
///
/// # Safety
/// As bind(2).
// SAFETY: it keeps the contract of the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bind(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    let (mut kind, yes): (c_int, c_int) = (0, 1);
    let mut size = mem::size_of::<c_int>() as socklen_t;
    // SAFETY: numbers, and what they are read from and written to, with its size.
    unsafe {
        let known =
            libc::getsockopt(fd, SOL_SOCKET, SO_TYPE, ptr::from_mut(&mut kind).cast::<c_void>(), &mut size);
        if known == 0 && kind == SOCK_STREAM {
            // If the socket does not take the option, bind it without.
            libc::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, ptr::from_ref(&yes).cast::<c_void>(), size);
        }
    }
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_bind, fd, address, length) as c_int }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Read},
        net::{Ipv4Addr, TcpListener, TcpStream},
        os::fd::{AsRawFd, FromRawFd, OwnedFd},
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn a_port_with_lingering_connections_can_be_bound() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        // The side that closes first stays in TIME_WAIT.
        drop(server.accept().unwrap());
        client.read_to_end(&mut Vec::new()).unwrap();
        drop((client, server));
        // Children of other tests may have a copy of the server for a moment; a lingering connection stays for 60 s.
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(error) = bind_again(port) {
            assert!(Instant::now() < deadline, "{error}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Binds a new socket to the port, through the symbol that libkrun calls.
    fn bind_again(port: u16) -> io::Result<()> {
        // SAFETY: numbers; the descriptor is new, and the socket's.
        let socket = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, SOCK_STREAM, 0)) };
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: port.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(Ipv4Addr::LOCALHOST).to_be() },
            sin_zero: [0; 8],
        };
        let size = mem::size_of_val(&address) as socklen_t;
        // SAFETY: an address with its size.
        let result = unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(&address).cast(), size) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
