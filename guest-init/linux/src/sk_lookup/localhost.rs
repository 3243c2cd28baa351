//! Connections to localhost, whatever the port: nobody has to know beforehand which will be asked for.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::BorrowedFd,
};

use super::{
    FAMILY, Instruction, LOCAL_IP4, LOCAL_IP6, PROTOCOL, Steering, assign, copy, end_unless, finish, key,
    steer, word,
};

/// Has every TCP connection to 127.0.0.1 or ::1 in the namespace `netns` be one of the listeners, which must be in it.
///
/// # Errors
/// The kernel's: it may be too old, or forbid it.
pub fn localhost(
    netns: BorrowedFd<'_>,
    ipv4: BorrowedFd<'_>,
    ipv6: Option<BorrowedFd<'_>>,
) -> io::Result<Steering> {
    let listeners: Vec<_> = [(0, ipv4)].into_iter().chain(ipv6.map(|ipv6| (1, ipv6))).collect();
    steer(netns, &listeners, program)
}

fn program(map: i32) -> Vec<Instruction> {
    let mut program = vec![
        copy(6, 1),
        word(2, PROTOCOL),
        end_unless(libc::IPPROTO_TCP),
        word(2, FAMILY),
        // IPv6's addresses are looked at five instructions on.
        Instruction(0x15, 2, 5, libc::AF_INET6),
        end_unless(libc::AF_INET),
        word(2, LOCAL_IP4),
        end_unless(i32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets())),
        key(0),
        // On to the lookup, past IPv6's nine.
        Instruction(0x05, 0, 9, 0),
    ];
    let loopback = Ipv6Addr::LOCALHOST.octets();
    let (words, _) = loopback.as_chunks::<4>();
    for (offset, expected) in (LOCAL_IP6..).step_by(4).zip(words) {
        program.extend([word(2, offset), end_unless(i32::from_ne_bytes(*expected))]);
    }
    program.push(key(1));
    program.extend(assign(map));
    finish(program)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            JUMP_UNLESS,
            tests::{places, targets},
        },
        *,
    };

    #[test]
    fn every_jump_lands_where_it_should() {
        let program = program(3);
        let (end, lookup) = places(&program);
        for (at, target) in targets(&program) {
            match (program[at].0, program[at].1) {
                (JUMP_UNLESS, _) | (0x15, 0) => assert_eq!(target, end),
                (0x15, _) => assert_eq!((program[target].0, program[target].2), (0x61, LOCAL_IP6)),
                _ => assert_eq!(target, lookup),
            }
        }
    }
}
