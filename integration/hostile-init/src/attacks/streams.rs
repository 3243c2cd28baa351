//! Streams of bytes.

use std::{io, net::Shutdown, thread};

use guest_protocol::mux::{LOG_STREAM, MAX_PAYLOAD, WINDOW};

use super::{Attack, once_started};
use crate::{
    guest::Guest,
    wire::{self, CREDIT, DATA, EOF, stream_frame},
};

/// The attack of this name.
pub fn find(attack: &str) -> Option<Attack> {
    Some(match attack {
        "empty-data" => |guest| always(guest, |guest| stream_frame(DATA, guest.stdio.stdout, 0, &[])),
        "one-byte-data" => |guest| always(guest, |guest| wire::data(guest.stdio.stdout, b"x")),
        "one-byte-data-in-window" => one_byte_data_in_window,
        "beyond-the-window" => {
            |guest| always(guest, |guest| wire::data(guest.stdio.stdout, &[0; MAX_PAYLOAD]))
        }
        "long-frame" => {
            |guest| always(guest, |guest| stream_frame(DATA, guest.stdio.stdout, u32::MAX, &[0; 4096]))
        }
        "unknown-frame" => |guest| always(guest, |guest| stream_frame(0xee, guest.stdio.stdout, 0, &[])),
        "endless-credit" => {
            |guest| always(guest, |guest| stream_frame(CREDIT, guest.stdio.stdin, u32::MAX, &[]))
        }
        "half-a-frame" => |guest| once_started(guest, |guest| guest.stream(&[DATA, 0, 0, 0, 16])),
        "unopened-streams" => unopened,
        "closes-streams" => |guest| once_started(guest, |guest| guest.streams.shutdown(Shutdown::Both)),
        "reads-no-streams" => reads_no_streams,
        "data-after-eof" => data_after_eof,
        "output-without-end" => output_without_end,
        "log-lines" => |guest| log(guest, [vec![b'x'; 1023], vec![b'\n']].concat()),
        "log-empty-lines" => |guest| log(guest, vec![b'\n'; MAX_PAYLOAD]),
        "log-one-line" => |guest| log(guest, vec![b'x'; MAX_PAYLOAD]),
        _ => return None,
    })
}

/// Sends such a frame again and again once the container runs.
fn always(guest: Guest, frame: fn(&Guest) -> Vec<u8>) -> io::Result<()> {
    once_started(guest, |guest| {
        let frame = frame(guest);
        loop {
            guest.stream(&frame)?;
        }
    })
}

/// One byte to a frame, as many as the host must take although nobody reads them.
fn one_byte_data_in_window(guest: Guest) -> io::Result<()> {
    once_started(guest, |guest| {
        let frame = wire::data(guest.stdio.stdout, b"x");
        (0..WINDOW).try_for_each(|_| guest.stream(&frame))
    })
}

/// Data and ends for the streams that nobody has opened, from the last one down, while it does what it is told.
fn unopened(guest: Guest) -> io::Result<()> {
    once_started(guest, |guest| {
        let streams = guest.streams.try_clone()?;
        thread::spawn(move || -> io::Result<()> {
            for stream in (LOG_STREAM + 1000..=u32::MAX).rev() {
                for frame in [wire::data(stream, &[0; 512]), stream_frame(EOF, stream, 0, &[])] {
                    io::Write::write_all(&mut &streams, &frame)?;
                }
            }
            Ok(())
        });
        Ok(())
    })
}

/// A guest that is without fault, but never reads what the host streams to it.
fn reads_no_streams(mut guest: Guest) -> io::Result<()> {
    guest.serve(|_, _| Ok(false))
}

/// Output, its end, and output. No record.
fn data_after_eof(guest: Guest) -> io::Result<()> {
    once_started(guest, |guest| {
        let stream = guest.stdio.stdout;
        for frame in [
            wire::data(stream, b"first\n"),
            stream_frame(EOF, stream, 0, &[]),
            wire::data(stream, b"later\n"),
        ] {
            guest.stream(&frame)?;
        }
        Ok(())
    })
}

/// The record of the container's end, whose output never ends.
fn output_without_end(mut guest: Guest) -> io::Result<()> {
    guest.read_streams()?;
    guest.serve(|guest, call| {
        if call.method == "Signal" {
            guest.answer(call, &guest_protocol::api::Empty::new())?;
            guest.record(137)?;
            return Ok(true);
        }
        Ok(false)
    })
}

fn log(guest: Guest, chunk: Vec<u8>) -> io::Result<()> {
    guest.flood_log(chunk)?;
    once_started(guest, |_| Ok(()))
}
