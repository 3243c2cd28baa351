//! The ways to misbehave, by name. The scenarios in `integration/src/scenarios/hostile_guest` say what each must come to.

mod calls;
mod control;
mod hellos;
mod machine;
mod streams;

use std::io;

use crate::guest::Guest;

/// Misbehaves in the way of this name. Returns when there is nothing left to do.
pub fn go(way: &str, nonce: &str) -> io::Result<()> {
    if let Some(early) = hellos::find(way) {
        return early(nonce);
    }
    let ways = [control::find, calls::find, streams::find, machine::find];
    let misbehave =
        ways.iter().find_map(|find| find(way)).ok_or_else(|| io::Error::other(format!("no way {way}")))?;
    misbehave(Guest::dial(nonce)?)
}

/// What a guest past its hellos does.
type Way = fn(Guest) -> io::Result<()>;

/// Has a guest be without fault until the container is started, then has it do `misdeed` once.
fn once_started(mut guest: Guest, mut misdeed: impl FnMut(&mut Guest) -> io::Result<()>) -> io::Result<()> {
    guest.read_streams()?;
    guest.serve(|guest, call| {
        if call.method == "Start" {
            guest.do_as_told(call)?;
            misdeed(guest)?;
            return Ok(true);
        }
        Ok(false)
    })
}
