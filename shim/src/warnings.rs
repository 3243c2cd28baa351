//! Warnings that a guest or a client can cause as often as it likes.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
};

use log::warn;
use vm_launcher::lines::Rate;

/// Warnings that come at once after a pause; in the long run they are as few as a guest's lines.
const BURST: u32 = 10;

/// Logs a few of the warnings of one kind, and counts the others.
pub struct Warnings {
    what: String,
    rate: Mutex<Rate>,
}

impl Warnings {
    /// Of attempts to do `what`.
    pub fn new(what: impl Into<String>) -> Warnings {
        Warnings { what: what.into(), rate: Mutex::new(Rate::new(BURST)) }
    }

    /// Says that an attempt failed, unless too many do.
    pub fn failed(&self, error: impl Display) {
        let passed = self.rate.lock().unwrap_or_else(PoisonError::into_inner).admit();
        let Some(summary) = passed else { return };
        self.log(summary);
        warn!("{}: {error}", self.what);
    }

    fn log(&self, summary: Option<String>) {
        if let Some(summary) = summary {
            warn!("{}: {summary}", self.what);
        }
    }
}

impl Drop for Warnings {
    fn drop(&mut self) {
        let summary = self.rate.get_mut().unwrap_or_else(PoisonError::into_inner).end();
        self.log(summary);
    }
}
