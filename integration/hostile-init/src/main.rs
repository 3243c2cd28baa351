//! krun-hostile-init: a PID 1 that the host must not trust. It boots in place of guest-init, and makes the one attack
//! whose name follows its own program file: a scenario appends it to a copy.
//!
//! What it sends is made by hand, frame by frame ([`wire`]), as libraries refuse to send what is wrong. In all that its attack
//! does not concern it is a guest without a fault ([`guest`]).

// As guest-init's: a kernel without a console starts PID 1 with fds 0-2 closed, and there is no /dev/null yet, so Rust's own
// start-up code would abort.
#![cfg_attr(not(test), no_main)]

mod attacks;
mod guest;
mod wire;

use std::{
    fs, io,
    panic::{self, AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

use guest_protocol::boot::{BootConfig, FILE_NAME, INIT_NAME};

/// Goes before the name of the attack, at the end of the program file.
const MARK: &str = "\nHOSTILE=";

/// The kernel's `/init.krun`.
#[cfg(not(test))]
// SAFETY: the one symbol of this name: `no_main` leaves the C library's start-up code without it.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: libc::c_int, _argv: *const *const libc::c_char) -> libc::c_int {
    pid1()
}

/// Misbehaves, then does nothing for ever, unless the attack ends the VM.
#[cfg_attr(test, allow(dead_code))]
fn pid1() -> libc::c_int {
    // fd 2 is closed, or a connection.
    panic::set_hook(Box::new(|_| ()));
    if let Ok(Err(error)) = catch_unwind(AssertUnwindSafe(run)) {
        // A connection that fails is what most attacks come to; the kernel's log says which, for whoever debugs one.
        let _ = fs::write("/dev/kmsg", format!("<4>hostile-init: {error}"));
    }
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

fn run() -> io::Result<()> {
    let boot: BootConfig = serde_json::from_slice(&fs::read(format!("/{FILE_NAME}"))?)?;
    let program = fs::read(format!("/{INIT_NAME}"))?;
    let attack = appended(&program).ok_or_else(|| io::Error::other("no attack is named"))?;
    attacks::go(attack, &boot.nonce)
}

/// The name that was appended to the program.
fn appended(program: &[u8]) -> Option<&str> {
    let tail = program.get(program.len().saturating_sub(128)..)?;
    let start = tail.windows(MARK.len()).rposition(|window| window == MARK.as_bytes())? + MARK.len();
    std::str::from_utf8(&tail[start..]).ok().map(str::trim_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attack_is_what_was_appended_last() {
        let program = [&[0xff; 500][..], b"\nHOSTILE=one", b"\nHOSTILE=two\n"].concat();
        assert_eq!(appended(&program), Some("two"));
        assert_eq!(appended(&[0; 500]), None);
    }
}
