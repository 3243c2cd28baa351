//! Writes what goes wrong in the sandbox to stderr, and with `--debug-console` everything that is logged.

use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

struct Stderr;

/// The crates whose warnings are for the user.
const OURS: [&str; 4] = ["krunctl", "shim", "private_network", "images"];

static EVERYTHING: OnceLock<bool> = OnceLock::new();

fn everything() -> bool {
    EVERYTHING.get() == Some(&true)
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What the vmm and the guest say may be of any kind.
        let is_ours = OURS.iter().any(|ours| metadata.target().starts_with(ours));
        everything() || is_ours && metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match everything() {
            true => eprint!("krunctl: {}: {}\r\n", record.target(), record.args()),
            false => eprint!("krunctl: {}\r\n", record.args()),
        }
    }

    fn flush(&self) {}
}

/// Logs from now on.
pub fn set(debug: bool) {
    if EVERYTHING.set(debug).is_ok() && log::set_logger(&Stderr).is_ok() {
        log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Warn });
    }
}
