//! Sockets of each kind, and what a unix socket can be connected to.

use nix::errno::Errno;
use syscalls::Sysno;

use super::{Outcome, Try, done, one};
use crate::attempt::{call, volume};

const NONBLOCKING: i32 = libc::SOCK_NONBLOCK;

pub const TRIES: &[Try] = &[
    one("socket VSOCK", || socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
    one("socket NETLINK", || socket(libc::AF_NETLINK, libc::SOCK_RAW)),
    one("socket PACKET", || socket(libc::AF_PACKET, libc::SOCK_RAW)),
    one("socket ALG", || socket(libc::AF_ALG, libc::SOCK_SEQPACKET)),
    one("socket XDP", || socket(libc::AF_XDP, libc::SOCK_RAW)),
    one("socket INET raw", || socket(libc::AF_INET, libc::SOCK_RAW)),
    one("socket INET6 raw", || socket(libc::AF_INET6, libc::SOCK_RAW)),
    one("socket INET stream of SCTP", || {
        let kind = [libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP];
        done(call(Sysno::socket, &kind.map(|number| number as usize)))
    }),
    one("socket INET stream", || socket(libc::AF_INET, libc::SOCK_STREAM)),
    one("socket INET6 datagram", || socket(libc::AF_INET6, libc::SOCK_DGRAM)),
    one("socket UNIX datagram", || socket(libc::AF_UNIX, libc::SOCK_DGRAM)),
    one("socket UNIX seqpacket", || socket(libc::AF_UNIX, libc::SOCK_SEQPACKET)),
    one("socket UNIX stream", || socket(libc::AF_UNIX, libc::SOCK_STREAM)),
    one("connect to containerd by its path", || connect(b"/run/containerd/containerd.sock")),
    one("connect to another VM by its path", || connect(b"/run/krun/other/sock/guest.sock")),
    one("connect to a name of the box", || connect(b"\0krun-scenario-abstract")),
    one("connect to a socket in a volume", || connect(volume("socket").as_bytes())),
    one("connect to its own socket", || connect(b"/sock/guest.sock")),
    one("connect to the box by 127.0.0.1", || {
        let file = call(Sysno::socket, &[libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0])?;
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: 7003_u16.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(std::net::Ipv4Addr::LOCALHOST).to_be() },
            sin_zero: [0; 8],
        };
        done(call(Sysno::connect, &[file, &raw const address as usize, size_of_val(&address)]))
    }),
    one("listen on a unix socket", || {
        let file = call(Sysno::socket, &[libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0])?;
        let (address, length) = unix(b"\0krun-hostile-vmm");
        done(call(Sysno::bind, &[file, &raw const address as usize, length]))
    }),
    one("bind to a device", || option(libc::SOL_SOCKET, libc::SO_BINDTODEVICE)),
    one("mark its packets", || option(libc::SOL_SOCKET, libc::SO_MARK)),
    one("be transparent", || option(libc::IPPROTO_IP, libc::IP_TRANSPARENT)),
    one("read a peer's credentials", || {
        done(call(Sysno::getsockopt, &[2, libc::SOL_SOCKET as usize, libc::SO_PEERCRED as usize, 0, 0]))
    }),
];

fn socket(family: i32, kind: i32) -> Outcome {
    done(call(Sysno::socket, &[family as usize, kind as usize, 0]))
}

fn option(level: i32, name: i32) -> Outcome {
    done(call(Sysno::setsockopt, &[2, level as usize, name as usize, 0, 0]))
}

fn unix(path: &[u8]) -> (libc::sockaddr_un, usize) {
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as u16, sun_path: [0; 108] };
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    // A path ends with a zero byte, which an abstract name would contain.
    let end = usize::from(path.first() != Some(&0));
    (address, size_of::<libc::sa_family_t>() + path.len() + end)
}

fn connect(path: &[u8]) -> Outcome {
    let file = call(Sysno::socket, &[libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0])?;
    // A listener whose queue is full must not hold up the others. F_SETFL is allowed.
    call(Sysno::fcntl, &[file, libc::F_SETFL as usize, NONBLOCKING as usize])?;
    let (address, length) = unix(path);
    match call(Sysno::connect, &[file, &raw const address as usize, length]) {
        // It is there, and would have taken this one later.
        Err(Errno::EAGAIN) => Ok(String::new()),
        result => done(result),
    }
}
