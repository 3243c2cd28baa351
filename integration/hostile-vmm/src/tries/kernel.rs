//! Calls that no vmm makes, with zeros for arguments: the filter kills before the kernel looks at them, and without the
//! filter they fail and harm nothing.

use syscalls::Sysno;

use super::{Try, done, one};
use crate::attempt::{call, note, raw};

/// `__X32_SYSCALL_BIT` of asm/unistd.h: a second way to most calls.
const X32: libc::c_long = 0x4000_0000;

/// A try for each call, with its name.
macro_rules! killed_calls {
    ($($name:ident)*) => {
        &[$(one(stringify!($name), || done(call(Sysno::$name, &[])))),*, one("read by x32", || {
            note("x32");
            done(raw(libc::SYS_read | X32, &[usize::MAX]))
        })]
    };
}

pub const TRIES: &[Try] = include!("killed_calls.rs");
