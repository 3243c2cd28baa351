//! The part of containerd's log, which carries the shim's log too, that was written since a moment.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

const LOG: &str = "/var/log/containerd.log";

/// A place in the log.
#[derive(Clone, Copy)]
pub struct Mark(u64);

/// The log's end as it is now.
pub fn mark() -> Mark {
    Mark(std::fs::metadata(LOG).map_or(0, |m| m.len()))
}

impl Mark {
    /// How many bytes were logged since.
    pub fn grown(self) -> u64 {
        mark().0.saturating_sub(self.0)
    }

    /// Everything logged since.
    pub fn since(self) -> Result<String> {
        let mut log = File::open(LOG).with_context(|| format!("open {LOG}"))?;
        log.seek(SeekFrom::Start(self.0)).with_context(|| format!("seek in {LOG}"))?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes).with_context(|| format!("read {LOG}"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last lines that are more than containerd's own debugging.
    pub fn tail(self, lines: usize) -> Result<Vec<String>> {
        let text = self.since()?;
        const CHATTER: [&str; 4] = ["level=debug", "loading plugin", "plugin:", "DEBUG"];
        let telling = |l: &&str| !CHATTER.iter().any(|c| l.contains(c));
        let telling: Vec<&str> = text.lines().filter(telling).collect();
        Ok(telling[telling.len().saturating_sub(lines)..].iter().map(|l| (*l).to_owned()).collect())
    }

    /// A line that contains all of `words`, in any case.
    pub fn line_with(self, words: &[&str]) -> Result<Option<String>> {
        let text = self.since()?;
        let has_all = |l: &&str| {
            let lower = l.to_lowercase();
            words.iter().all(|w| lower.contains(&w.to_lowercase()))
        };
        Ok(text.lines().find(has_all).map(str::to_owned))
    }
}
