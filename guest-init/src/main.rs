//! PID 1 of the microVM: what happens in it stands in [`init`].

// Rust's own start-up code aborts when fds 0-2 are closed and /dev/null cannot be opened, which
// is how a kernel without a console starts us; so the entry point is C's.
#![cfg_attr(not(test), no_main)]

mod init;

/// The kernel's `/init.krun`.
#[cfg(not(test))]
// SAFETY: the one symbol of this name: `no_main` leaves the C library's start-up code without it.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: libc::c_int, _argv: *const *const libc::c_char) -> libc::c_int {
    init::main()
}
