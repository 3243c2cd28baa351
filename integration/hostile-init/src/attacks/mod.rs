//! The attacks by name. The scenarios in `integration/src/scenarios/hostile_guest` say what each must come to.

mod calls;
mod control;
mod hellos;
mod machine;
mod streams;

use std::io;

use crate::guest::Guest;

/// Makes the attack of this name. Returns when there is nothing left to do.
pub fn go(attack: &str, nonce: &str) -> io::Result<()> {
    if let Some(early) = hellos::find(attack) {
        return early(nonce);
    }
    let attacks = [control::find, calls::find, streams::find, machine::find];
    let misbehave = attacks
        .iter()
        .find_map(|find| find(attack))
        .ok_or_else(|| io::Error::other(format!("no attack {attack}")))?;
    misbehave(Guest::dial(nonce)?)
}

/// What a guest past its hellos does.
type Attack = fn(Guest) -> io::Result<()>;

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
