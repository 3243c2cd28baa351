//! Framing and pairing of the control connection.

use std::{io, net::Shutdown, thread, time::Duration};

use guest_protocol::api;
use ttrpc::proto::{MESSAGE_TYPE_DATA, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE};

use super::{Attack, once_started};
use crate::{
    guest::Guest,
    wire::{self, call_frame},
};

/// Unasked answers at a time.
const FLOOD: usize = 20_000;

/// The attack of this name.
pub fn find(attack: &str) -> Option<Attack> {
    Some(match attack {
        "garbage" => garbage,
        "frame-of-4-gib" => |guest| promise(guest, u32::MAX, &[0xa5; 4096]),
        "frame-of-4-mib-unsent" => |guest| promise(guest, 4 << 20, &[]),
        "unasked-answers" => unasked,
        "calls-the-host" => calls_the_host,
        "stream-data" => stream_data,
        "answers-twice" => twice,
        "closes-control" => |guest| once_started(guest, |guest| guest.control.shutdown(Shutdown::Both)),
        "stops-reading" => |guest| once_started(guest, |_| stand_still()),
        _ => return None,
    })
}

fn stand_still() -> io::Result<()> {
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

/// Frames of a kind that there is not, in place of answers.
fn garbage(guest: Guest) -> io::Result<()> {
    let mut id = 0u32;
    loop {
        guest.tell(&call_frame(16, id, 0x77, &[0xa5; 16]))?;
        id = id.wrapping_add(1);
    }
}

/// The header of a frame of `length` in answer to the first call, and then `chunk`s of its body for as long as the host
/// takes them.
fn promise(guest: Guest, length: u32, chunk: &[u8]) -> io::Result<()> {
    let call = wire::next_call(&guest.control)?;
    guest.tell(&call_frame(length, call.id, MESSAGE_TYPE_RESPONSE, &[]))?;
    if chunk.is_empty() {
        return stand_still();
    }
    loop {
        guest.tell(chunk)?;
    }
}

/// Exit records for processes that never were, and nobody asked for, before each answer.
fn unasked(mut guest: Guest) -> io::Result<()> {
    guest.read_streams()?;
    guest.serve(|guest, call| {
        let record = api::ExitRecord { status: 66, ..Default::default() };
        for number in 1..=FLOOD as u32 {
            guest.tell(&wire::answer(call.id.wrapping_add(2 * number), &record))?;
        }
        Ok(false)
    })
}

/// Requests, which only the host makes.
fn calls_the_host(mut guest: Guest) -> io::Result<()> {
    guest.read_streams()?;
    guest.serve(|guest, call| {
        for number in 0..100 {
            guest.tell(&call_frame(4, call.id + number, MESSAGE_TYPE_REQUEST, b"call"))?;
        }
        Ok(false)
    })
}

/// Data of a ttrpc stream for a call that has none, without end.
fn stream_data(mut guest: Guest) -> io::Result<()> {
    guest.read_streams()?;
    guest.serve(|guest, call| match call.method.as_str() {
        "Wait" => loop {
            guest.tell(&call_frame(4, call.id, MESSAGE_TYPE_DATA, b"data"))?;
        },
        _ => Ok(false),
    })
}

fn twice(mut guest: Guest) -> io::Result<()> {
    guest.read_streams()?;
    guest.serve(|guest, call| {
        if call.method == "Wait" {
            return Ok(false);
        }
        guest.do_as_told(call)?;
        guest.answer(call, &api::Process { pid: 1, ..Default::default() })?;
        Ok(true)
    })
}
