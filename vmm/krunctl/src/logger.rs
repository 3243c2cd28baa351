//! Writes the log to stderr, with `--debug-console`.

use log::{LevelFilter, Log, Metadata, Record};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        eprint!("krunctl: {}: {}\r\n", record.target(), record.args());
    }

    fn flush(&self) {}
}

/// Logs everything.
pub fn set() {
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
}
