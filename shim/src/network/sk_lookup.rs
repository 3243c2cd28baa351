//! A small program for the kernel (BPF, sk_lookup, Linux 5.9): in one network namespace, every TCP
//! connection to 127.0.0.1 or ::1, whatever its port, is one of the listeners that are given here.
//! Nobody has to know beforehand which ports will be asked for, and no packet is rewritten.
//!
//! Source of numbers and layouts: linux/bpf.h; of the rules: the kernel's
//! Documentation/bpf/prog_sk_lookup.rst.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Commands of bpf(2).
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;

const MAP_TYPE_SOCKMAP: u32 = 15;
const PROG_TYPE_SK_LOOKUP: u32 = 30;
const ATTACH_SK_LOOKUP: u32 = 36;

/// Helpers that the program calls.
const MAP_LOOKUP_ELEM: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;

/// Offsets in `struct bpf_sk_lookup`.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const LOCAL_IP6: i16 = 44;

/// `SK_PASS`: go on, with the socket that was assigned if there is one.
const PASS: i32 = 1;

/// One instruction: code, registers (destination in the low half), offset, immediate value.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction(u8, u8, i16, i32);

/// The program's attachment; it ends when this is dropped.
pub struct Steering {
    _link: OwnedFd,
}

/// Steers the connections of the namespace `netns` to the listeners, which must be in it.
///
/// # Errors
/// The kernel's: it may be too old, or forbid it.
pub fn steer(netns: BorrowedFd<'_>, ipv4: &TcpListener, ipv6: Option<&TcpListener>) -> io::Result<Steering> {
    // Type, size of a key, size of a value (a descriptor), entries.
    let map = made(MAP_CREATE, &[MAP_TYPE_SOCKMAP, 4, 4, 2])?;
    put(map.as_fd(), 0, ipv4)?;
    if let Some(ipv6) = ipv6 {
        put(map.as_fd(), 1, ipv6)?;
    }
    let program = load(&program(map.as_raw_fd()))?;
    let link =
        made(LINK_CREATE, &[program.as_raw_fd() as u32, netns.as_raw_fd() as u32, ATTACH_SK_LOOKUP, 0])?;
    Ok(Steering { _link: link })
}

fn program(map: i32) -> Vec<Instruction> {
    let word = |register: u8, offset| Instruction(0x61, 6 << 4 | register, offset, 0);
    let copy = |to: u8, from: u8| Instruction(0xbf, from << 4 | to, 0, 0);
    let number = |register, value| Instruction(0xb7, register, 0, value);
    let call = |helper| Instruction(0x85, 0, 0, helper);
    let key = |value| Instruction(0x62, 10, -4, value);
    // Goes to the end; the distance is filled in below.
    let end_unless = |value| Instruction(0x55, 2, 0, value);
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
    program.extend([
        key(1),
        // A map's descriptor, in two instructions (BPF_PSEUDO_MAP_FD).
        Instruction(0x18, 1 << 4 | 1, 0, map),
        Instruction(0, 0, 0, 0),
        copy(2, 10),
        Instruction(0x07, 2, 0, -4),
        call(MAP_LOOKUP_ELEM),
        // None: to the end, past the next seven.
        Instruction(0x15, 0, 7, 0),
        copy(7, 0),
        copy(1, 6),
        copy(2, 0),
        number(3, 0),
        call(SK_ASSIGN),
        copy(1, 7),
        call(SK_RELEASE),
        number(0, PASS),
        Instruction(0x95, 0, 0, 0),
    ]);
    let end = program.len() as i16 - 2;
    for (at, instruction) in (0..).zip(&mut program) {
        if instruction.0 == 0x55 {
            instruction.2 = end - at - 1;
        }
    }
    program
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    // Its helpers may be called under any licence.
    let licence = c"Apache-2.0";
    // Up to and with `expected_attach_type`, at byte 68.
    let mut attributes = [0u32; 18];
    attributes[0] = PROG_TYPE_SK_LOOKUP;
    attributes[1] = program.len() as u32;
    pointer(&mut attributes[2..4], program.as_ptr().cast());
    pointer(&mut attributes[4..6], licence.as_ptr().cast());
    attributes[17] = ATTACH_SK_LOOKUP;
    made(PROG_LOAD, &attributes)
}

fn put(map: BorrowedFd<'_>, key: u32, listener: &TcpListener) -> io::Result<()> {
    let socket = listener.as_raw_fd();
    let mut attributes = [0u32; 8];
    attributes[0] = map.as_raw_fd() as u32;
    pointer(&mut attributes[2..4], (&raw const key).cast());
    pointer(&mut attributes[4..6], (&raw const socket).cast());
    bpf(MAP_UPDATE_ELEM, &attributes).map(drop)
}

fn pointer(to: &mut [u32], pointer: *const libc::c_void) {
    let bytes = (pointer as u64).to_ne_bytes();
    let (halves, _) = bytes.as_chunks::<4>();
    for (to, half) in to.iter_mut().zip(halves) {
        *to = u32::from_ne_bytes(*half);
    }
}

fn made(command: libc::c_int, attributes: &[u32]) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: these commands answer with a new descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[expect(clippy::disallowed_methods, reason = "bpf(2), which is given no path here")]
fn bpf(command: libc::c_int, attributes: &[u32]) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are read for their size; what they point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    match result {
        0.. => Ok(result as libc::c_int),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_jump_lands_where_it_should() {
        let program = program(3);
        let end = program.iter().position(|i| (i.0, i.1, i.3) == (0xb7, 0, PASS)).unwrap() as i16;
        let lookup = program.iter().position(|i| i.0 == 0x18).unwrap() as i16;
        let target = |at: usize| at as i16 + 1 + program[at].2;
        for (at, instruction) in program.iter().enumerate() {
            match (instruction.0, instruction.1) {
                (0x55, _) | (0x15, 0) => assert_eq!(target(at), end),
                (0x15, _) => assert_eq!(
                    (program[target(at) as usize].0, program[target(at) as usize].2),
                    (0x61, LOCAL_IP6)
                ),
                (0x05, _) => assert_eq!(target(at), lookup),
                _ => {}
            }
        }
    }
}
