//! The loopback interface of a new network namespace. Source: netdevice(7).

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// Brings up `lo` of this thread's network namespace.
///
/// # Errors
/// The socket's or the request's.
pub fn bring_up() -> io::Result<()> {
    // SAFETY: the arguments are numbers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else knows.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: ifreq is plain data, for which zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: this request reads an ifreq, which names the interface and ends with a zero.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::{
        sched::{CloneFlags, unshare},
        unistd::Uid,
    };

    use super::*;
    use crate::netlink::{
        Netlink,
        netlink_packet_route::{
            RouteNetlinkMessage,
            link::{LinkFlags, LinkMessage},
        },
    };

    #[test]
    fn lo_of_a_new_namespace_comes_up() {
        if !Uid::effective().is_root() {
            eprintln!("skipped: making a network namespace needs root");
            return;
        }
        let is_up = || {
            let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
            Netlink::open().unwrap().dump(all).unwrap().into_iter().any(|message| match message {
                RouteNetlinkMessage::NewLink(link) => {
                    link.header.flags.contains(LinkFlags::Loopback | LinkFlags::Up)
                }
                _ => false,
            })
        };
        // A thread's own, which goes with it.
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            assert!(!is_up());
            bring_up().unwrap();
            assert!(is_up());
        })
        .join()
        .unwrap();
    }
}
