//! Writes the log to stderr, for the commands that a user runs. Not for `krun-vmm vm`, where libkrun sets the logger.

use log::{LevelFilter, Log, Metadata, Record};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        eprint!("krun-vmm: {}: {}\r\n", record.target(), record.args());
    }

    fn flush(&self) {}
}

/// Logs everything.
pub fn set() {
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
}
