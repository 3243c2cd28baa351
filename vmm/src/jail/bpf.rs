//! Classic BPF programs for seccomp, built from a list of refusals. Knows no system call by name.

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, sock_filter,
};

/// `AUDIT_ARCH_X86_64` (linux/audit.h).
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// `__X32_SYSCALL_BIT` (asm/unistd.h): numbers from here on are a second way to most calls.
const X32_SYSCALL_BIT: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data` (linux/seccomp.h); arguments are 64 bits, low half first.
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_FIRST_ARGUMENT: u32 = 16;

/// What is refused of a call.
#[derive(Clone, Copy)]
pub enum Refusal {
    /// Every use, with this errno.
    Always(i32),
    /// Uses whose first argument's low half has one of some bits, or lacks another, with EPERM.
    ByFirstArgument {
        /// The bits that it must not have.
        bad: u32,
        /// The bit that it must have.
        needed: u32,
    },
}

/// A program that refuses what `refused` lists and allows everything else.
pub fn program(refused: &[(libc::c_long, Refusal)]) -> Vec<sock_filter> {
    let mut program = vec![
        load(OFFSET_ARCH),
        jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0),
        give(SECCOMP_RET_KILL_PROCESS),
        load(OFFSET_NR),
        jump(BPF_JGE, X32_SYSCALL_BIT, 0, 1),
        give(SECCOMP_RET_KILL_PROCESS),
    ];
    for &(number, refusal) in refused {
        match refusal {
            Refusal::Always(errno) => {
                program.extend([jump(BPF_JEQ, number as u32, 0, 1), refuse(errno)]);
            }
            Refusal::ByFirstArgument { bad, needed } => program.extend([
                jump(BPF_JEQ, number as u32, 0, 5),
                load(OFFSET_FIRST_ARGUMENT),
                jump(BPF_JSET, bad, 1, 0),
                jump(BPF_JSET, needed, 1, 0),
                refuse(libc::EPERM),
                give(SECCOMP_RET_ALLOW),
            ]),
        }
    }
    program.push(give(SECCOMP_RET_ALLOW));
    program
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

/// Skips `jt` instructions if the comparison holds, else `jf`.
fn jump(comparison: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | comparison | BPF_K) as u16, jt, jf, k }
}

fn give(answer: u32) -> sock_filter {
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: answer }
}

fn refuse(errno: i32) -> sock_filter {
    give(SECCOMP_RET_ERRNO | errno as u32)
}
