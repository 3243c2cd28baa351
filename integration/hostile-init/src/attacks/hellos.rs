//! Before and at the hello.

use std::{
    io::{self, Write},
    process, thread,
    time::Duration,
};

use guest_protocol::hello::{NONCE_LEN, Role};
use nix::sys::reboot::{RebootMode, reboot};

use crate::{guest::Guest, wire};

/// The attack of this name.
pub fn find(attack: &str) -> Option<fn(&str) -> io::Result<()>> {
    Some(match attack {
        "never-dials" => |_| Ok(()),
        "wrong-nonce-first" => |nonce| dial_wrongly(4, nonce),
        "dials-1000" => |nonce| dial_wrongly(1000, nonce),
        "half-hello" => half_hello,
        "control-only" => control_only,
        "dials-on" => dial_on,
        "exits" => |_| process::exit(0),
        "reboots" => |_| reboot(RebootMode::RB_AUTOBOOT).map(drop).map_err(io::Error::from),
        _ => return None,
    })
}

/// Connections with another nonce, then a guest without a fault.
fn dial_wrongly(times: usize, nonce: &str) -> io::Result<()> {
    for _ in 0..times {
        // The host may have had enough, and then refuses.
        wire::introduced(Role::Control, &"0".repeat(NONCE_LEN))?;
    }
    let mut guest = Guest::dial(nonce)?;
    guest.read_streams()?;
    guest.serve(|_, _| Ok(false))
}

fn half_hello(nonce: &str) -> io::Result<()> {
    let mut connection = wire::dial()?;
    connection.write_all(&wire::hello(Role::Control, nonce)[..NONCE_LEN / 2])?;
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

/// The control connection again and again, which is introduced as it should be, and never the other.
fn control_only(nonce: &str) -> io::Result<()> {
    let mut kept = Vec::new();
    for _ in 0..200 {
        kept.push(wire::introduced(Role::Control, nonce)?);
    }
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

/// A guest without a fault, and a process of its own that goes on to dial the port and introduce itself.
fn dial_on(nonce: &str) -> io::Result<()> {
    let mut guest = Guest::dial(nonce)?;
    // SAFETY: this process has one thread, so the child has all that it needs.
    if unsafe { nix::unistd::fork() }?.is_child() {
        loop {
            for role in [Role::Control, Role::Streams] {
                // Refused or not: nobody may listen.
                let _ = wire::introduced(role, nonce);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    guest.read_streams()?;
    guest.serve(|_, _| Ok(false))
}
