//! Answers that are lies, or never come.

use std::io;

use guest_protocol::api;

use super::Attack;
use crate::{
    guest::Guest,
    wire::{self, Call},
};

/// Close to the longest frame that ttrpc takes.
const LONG: usize = (4 << 20) - 1024;

/// Less than the longest answer that the host takes. Source: `MAX_ANSWER` of vmm/launcher/src/control.rs.
const ALLOWED: usize = 200 << 10;

/// The attack of this name.
pub fn find(attack: &str) -> Option<Attack> {
    Some(match attack {
        "silent-create" => |guest| silent(guest, &["CreateContainer"]),
        "silent-start" => |guest| silent(guest, &["Start"]),
        "silent-wait" => |guest| silent(guest, &["Wait"]),
        "silent-signal" => |guest| silent(guest, &["Signal"]),
        "silent-exec" => |guest| silent(guest, &["Exec"]),
        "silent-stats" => |guest| silent(guest, &["Stats"]),
        "silent-all" => |guest| {
            silent(
                guest,
                &["Wait", "Signal", "Exec", "Stats", "SetClock", "Pause", "Resume", "DeleteContainer"],
            )
        },
        "exit-record-lies" => exit_record,
        "exits-in-vain" => exits_in_vain,
        "forged-kernel" => |guest| in_place_of(guest, "Configure", forged_kernel),
        "forged-error" => |guest| in_place_of(guest, "CreateContainer", |call| forged_error(call, ALLOWED)),
        "long-error" => |guest| in_place_of(guest, "CreateContainer", |call| forged_error(call, LONG)),
        "unknown-code" => |guest| in_place_of(guest, "CreateContainer", |call| failure(call, 999)),
        "error-that-is-ok" => |guest| in_place_of(guest, "Start", |call| failure(call, 0)),
        "undecodable" => {
            |guest| in_place_of(guest, "CreateContainer", |call| wire::raw_answer(call.id, vec![0xff; 64]))
        }
        "stats-lie" => |guest| in_place_of(guest, "Stats", |call| stats(call, ALLOWED)),
        "long-stats" => |guest| in_place_of(guest, "Stats", |call| stats(call, LONG)),
        _ => return None,
    })
}

fn silent(mut guest: Guest, methods: &[&str]) -> io::Result<()> {
    guest.read_streams()?;
    guest.serve(|_, call| Ok(methods.contains(&call.method.as_str())))
}

fn in_place_of(mut guest: Guest, method: &str, answer: fn(&Call) -> Vec<u8>) -> io::Result<()> {
    guest.read_streams()?;
    guest.serve(|guest, call| {
        let is_it = call.method == method;
        if is_it {
            guest.tell(&answer(call))?;
        }
        match call.method.as_str() {
            "CreateContainer" => guest.note_stdio(call)?,
            "Start" if is_it => guest.say_started()?,
            _ => {}
        }
        Ok(is_it)
    })
}

/// Every process ends as soon as somebody waits for it, with a status of nine bits, in the far future.
fn exit_record(mut guest: Guest) -> io::Result<()> {
    guest.read_streams()?;
    guest.serve(|guest, call| match call.method.as_str() {
        "Wait" => {
            let record = api::ExitRecord { status: 0x1ff, exited_at_ns: i64::MAX, ..Default::default() };
            guest.answer(call, &record).map(|()| true)
        }
        _ => Ok(false),
    })
}

/// The end of the container is told before its start.
fn exits_in_vain(mut guest: Guest) -> io::Result<()> {
    guest.read_streams()?;
    guest.serve(|guest, call| {
        let is_early = call.method == "Wait";
        if is_early {
            guest.do_as_told(call)?;
            // Start may be under way: then this is what the container ended with.
            guest.end(7)?;
        }
        Ok(is_early)
    })
}

/// Lines of another program's log, and codes that drive a terminal.
fn forged_lines(bytes: usize) -> String {
    let line = "\nlevel=fatal msg=forged\x1b[2J\u{9b}1m";
    line.repeat(bytes / line.len())
}

fn forged_kernel(call: &Call) -> Vec<u8> {
    wire::answer(call.id, &api::ConfigureResponse { kernel: forged_lines(ALLOWED), ..Default::default() })
}

fn forged_error(call: &Call, bytes: usize) -> Vec<u8> {
    wire::failure(call.id, 13, forged_lines(bytes))
}

fn failure(call: &Call, code: i32) -> Vec<u8> {
    wire::failure(call.id, code, "a failure without a known code".to_owned())
}

/// As many entries as fit in this many bytes, and numbers that overflow what adds them.
fn stats(call: &Call, bytes: usize) -> Vec<u8> {
    let mut stats = api::StatsResponse {
        cpu_usage_us: u64::MAX,
        cpu_user_us: u64::MAX,
        cpu_throttled_us: u64::MAX,
        memory_usage: u64::MAX,
        memory_limit: u64::MAX,
        pids_current: u64::MAX,
        ..Default::default()
    };
    // An entry of the map takes a tag, a length, a key of up to 8 bytes with tag and length, and a number of 10 with tag.
    stats.memory_stat = (0..bytes / 24).map(|number| (format!("{number:x}"), u64::MAX)).collect();
    stats.io = vec![api::IoEntry { major: u64::MAX, rbytes: u64::MAX, ..Default::default() }; 100];
    wire::answer(call.id, &stats)
}
