//! `krunctl ps`: the sandboxes of this host.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::{Seen, usage::Usage};
use crate::{
    out,
    table::{self, Format},
    vm,
};

/// How much of an id made of so many hexadecimal digits a table shows. Source: docker's and nerdctl's `ps`.
const WHOLE_ID: usize = 64;
const SHORT_ID: usize = 12;

/// The flags of `ps`.
#[derive(Args)]
pub struct Arguments {
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    /// As a table, or as JSON
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Prints a line for each sandbox.
///
/// # Errors
/// When they cannot be looked for.
pub fn run(arguments: &Arguments) -> Result<u8> {
    vm::check_root()?;
    let all = Seen::all()?;
    if arguments.format == Format::Json {
        let shown: Vec<_> = all.iter().map(|seen| seen.show(&Usage::of(&seen.status))).collect();
        out::line(serde_json::to_string_pretty(&shown)?)?;
        return Ok(0);
    }
    let rows: Vec<_> = all.iter().map(|seen| row(seen, arguments.no_trunc)).collect();
    let columns =
        ["namespace", "id", "pod", "state", "cpus", "memory", "resident", "network", "boot", "uptime"];
    table::print(&columns, &rows)?;
    Ok(0)
}

/// What a table has of it.
fn row(seen: &Seen, whole_id: bool) -> Value {
    let mut shown = seen.show(&Usage::of(&seen.status));
    let status = &seen.status;
    if !whole_id {
        shown["id"] = short(&status.sandbox).into();
    }
    shown["pod"] = status.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)).into();
    shown["memory"] = table::human(u64::from(status.memory_mib) << 20).into();
    shown["resident"] = shown["resident_bytes"].as_u64().map(table::human).into();
    shown["uptime"] = uptime(seen.age()).into();
    shown
}

fn short(id: &str) -> &str {
    let is_digest = id.len() == WHOLE_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest { &id[..SHORT_ID] } else { id }
}

/// The two largest units of a time.
fn uptime(age: Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if days > 0 => format!("{days}d{}h", hours % 24),
        () if hours > 0 => format!("{hours}h{}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m{}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_digest_is_cut() {
        assert_eq!(short(&"0123456789abcdef".repeat(4)), "0123456789ab");
        assert_eq!(short("web"), "web");
        assert_eq!(short(&"x".repeat(64)).len(), 64);
    }

    #[test]
    fn a_time_has_two_units() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m1s"), (3_660, "1h1m"), (90_000, "1d1h")] {
            assert_eq!(uptime(Duration::from_secs(seconds)), text);
        }
    }
}
