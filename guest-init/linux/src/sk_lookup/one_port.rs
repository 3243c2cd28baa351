//! What is sent to one address and port, by TCP and UDP. A program can still bind that port at all addresses.

use std::{io, net::SocketAddrV4, os::fd::BorrowedFd};

use super::{
    FAMILY, Instruction, LOCAL_IP4, LOCAL_PORT, PROTOCOL, Steering, assign, copy, end_unless, finish, key,
    steer, word,
};

/// Has what is sent to `address` in the namespace `netns` reach the listener `tcp` and the socket `udp`, which must be in it.
///
/// # Errors
/// The kernel's: it may be too old, or forbid it.
pub fn one_port(
    netns: BorrowedFd<'_>,
    address: SocketAddrV4,
    tcp: BorrowedFd<'_>,
    udp: BorrowedFd<'_>,
) -> io::Result<Steering> {
    steer(netns, &[(0, tcp), (1, udp)], |map| program(map, address))
}

fn program(map: i32, address: SocketAddrV4) -> Vec<Instruction> {
    let mut program = vec![
        copy(6, 1),
        word(2, FAMILY),
        end_unless(libc::AF_INET),
        word(2, LOCAL_IP4),
        end_unless(i32::from_ne_bytes(address.ip().octets())),
        // In this machine's order.
        word(2, LOCAL_PORT),
        end_unless(address.port().into()),
        word(2, PROTOCOL),
        key(0),
        // TCP: on to the lookup, past UDP's two.
        Instruction(0x15, 2, 2, libc::IPPROTO_TCP),
        key(1),
        end_unless(libc::IPPROTO_UDP),
    ];
    program.extend(assign(map));
    finish(program)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{places, targets},
        *,
    };

    #[test]
    fn every_jump_lands_where_it_should() {
        let program = program(3, SocketAddrV4::new([127, 0, 0, 11].into(), 53));
        let (end, lookup) = places(&program);
        for (at, target) in targets(&program) {
            match (program[at].0, program[at].1) {
                (0x15, 2) => assert_eq!(target, lookup),
                _ => assert_eq!(target, end),
            }
        }
    }
}
