//! Small programs for the kernel (BPF, sk_lookup, Linux 5.9): in one network namespace, what is sent to some addresses reaches sockets
//! that are given here, whatever they are bound to. No packet is rewritten.
//!
//! Source of numbers and layouts: linux/bpf.h; of the rules: the kernel's
//! Documentation/bpf/prog_sk_lookup.rst.

mod localhost;
mod one_port;

pub use localhost::localhost;
pub use one_port::one_port;

use std::{
    io,
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
const LOCAL_PORT: i16 = 60;

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

/// Attaches to `netns` the program that `program` makes for a map of these sockets, by their keys.
fn steer(
    netns: BorrowedFd<'_>,
    sockets: &[(u32, BorrowedFd<'_>)],
    program: impl FnOnce(i32) -> Vec<Instruction>,
) -> io::Result<Steering> {
    // Type, size of a key, size of a value (a descriptor), entries.
    let map = made(MAP_CREATE, &[MAP_TYPE_SOCKMAP, 4, 4, 2])?;
    for (key, socket) in sockets {
        put(map.as_fd(), *key, *socket)?;
    }
    let program = load(&program(map.as_raw_fd()))?;
    let link =
        made(LINK_CREATE, &[program.as_raw_fd() as u32, netns.as_raw_fd() as u32, ATTACH_SK_LOOKUP, 0])?;
    Ok(Steering { _link: link })
}

/// Loads a word of the context, which register 6 has, into a register.
fn word(register: u8, offset: i16) -> Instruction {
    Instruction(0x61, 6 << 4 | register, offset, 0)
}

fn copy(to: u8, from: u8) -> Instruction {
    Instruction(0xbf, from << 4 | to, 0, 0)
}

fn number(register: u8, value: i32) -> Instruction {
    Instruction(0xb7, register, 0, value)
}

/// Puts the key of a socket where [`assign`] finds it.
fn key(value: i32) -> Instruction {
    Instruction(0x62, 10, -4, value)
}

/// A jump of 32 bits (BPF_JMP32, BPF_JNE), which compares with no sign: the highest bit is one of an address.
const JUMP_UNLESS: u8 = 0x56;

/// Goes to the end unless register 2 has this value; [`finish`] fills in the distance.
fn end_unless(value: i32) -> Instruction {
    Instruction(JUMP_UNLESS, 2, 0, value)
}

/// Assigns the socket with the key, and ends.
fn assign(map: i32) -> [Instruction; 15] {
    let call = |helper| Instruction(0x85, 0, 0, helper);
    [
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
    ]
}

/// Fills in the distance of each jump to the end.
fn finish(mut program: Vec<Instruction>) -> Vec<Instruction> {
    let end = program.len() as i16 - 2;
    for (at, instruction) in (0..).zip(&mut program) {
        if instruction.0 == JUMP_UNLESS {
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

fn put(map: BorrowedFd<'_>, key: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    let socket = socket.as_raw_fd();
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

    /// Where each jump of a program leads, by the place of the jump.
    pub fn targets(program: &[Instruction]) -> Vec<(usize, usize)> {
        let jumps = program.iter().enumerate().filter(|(_, one)| matches!(one.0, 0x05 | 0x15 | JUMP_UNLESS));
        jumps.map(|(at, jump)| (at, (at as i16 + 1 + jump.2) as usize)).collect()
    }

    /// The place of the end, and that of the look-up.
    pub fn places(program: &[Instruction]) -> (usize, usize) {
        let end = program.iter().position(|i| (i.0, i.1, i.3) == (0xb7, 0, PASS)).unwrap();
        (end, program.iter().position(|i| i.0 == 0x18).unwrap())
    }
}
