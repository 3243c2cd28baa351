//! Executable memory, and the host's memory.

use syscalls::Sysno;

use super::{Outcome, Try, done, one};
use crate::attempt::call;

/// `MADV_HWPOISON` and `MADV_SOFT_OFFLINE` of asm-generic/mman-common.h.
const POISON: usize = 100;
const OFFLINE: usize = 101;

const SIZE: usize = 4096;

pub const TRIES: &[Try] = &[
    one("map executable memory", || mapped(libc::PROT_READ | libc::PROT_EXEC).map(|_| String::new())),
    one("map writable and executable memory", || {
        mapped(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC).map(|_| String::new())
    }),
    one("make memory executable", || protect(libc::PROT_READ | libc::PROT_EXEC)),
    one("make its program writable", || {
        let code = protect as fn(i32) -> Outcome as usize & !(SIZE - 1);
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        done(call(Sysno::mprotect, &[code, SIZE, all as usize]))
    }),
    one("poison a page of the host", || advise(POISON)),
    one("take a page of the host offline", || advise(OFFLINE)),
];

fn mapped(protection: i32) -> Result<usize, nix::errno::Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    call(Sysno::mmap, &[0, SIZE, protection as usize, flags as usize, usize::MAX, 0])
}

fn protect(protection: i32) -> Outcome {
    let memory = mapped(libc::PROT_READ | libc::PROT_WRITE)?;
    done(call(Sysno::mprotect, &[memory, SIZE, protection as usize]))
}

fn advise(advice: usize) -> Outcome {
    let memory = mapped(libc::PROT_READ | libc::PROT_WRITE)?;
    done(call(Sysno::madvise, &[memory, SIZE, advice]))
}
