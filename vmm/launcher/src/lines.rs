//! Lines from a process that is not trusted: always drained, each of bounded length, and only so
//! many a second passed on, so that its writer can neither stall nor flood the host's log.

use std::time::{Duration, Instant};

/// Longest line passed on, in bytes; the rest of it is dropped.
pub const MAX_LINE: usize = 1024;

/// Lines passed on at once after a pause.
const BURST: u32 = 500;

/// Lines a second passed on in the long run.
const PER_SECOND: u32 = 50;

/// Cuts a stream of bytes into lines.
pub struct Lines {
    partial: Vec<u8>,
    allowance: u32,
    refilled: Instant,
    dropped: u64,
}

impl Default for Lines {
    fn default() -> Self {
        Lines::new()
    }
}

impl Lines {
    /// Has seen nothing yet.
    pub fn new() -> Self {
        Lines { partial: Vec::new(), allowance: BURST, refilled: Instant::now(), dropped: 0 }
    }

    /// Takes the next bytes and hands out the lines that they complete.
    pub fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, complete) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            let room = MAX_LINE - self.partial.len();
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            if complete {
                self.finish(&mut line);
            }
        }
    }

    /// The stream has ended: hands out what was not ended by a newline.
    pub fn end(&mut self, mut line: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.finish(&mut line);
        }
        self.report_dropped(&mut line);
    }

    fn finish(&mut self, line: &mut impl FnMut(&str)) {
        let text = printable(&std::mem::take(&mut self.partial));
        self.refill();
        if self.allowance == 0 {
            self.dropped += 1;
            return;
        }
        self.allowance -= 1;
        self.report_dropped(line);
        line(&text);
    }

    fn refill(&mut self) {
        let earned = self.refilled.elapsed().as_millis() as u64 * u64::from(PER_SECOND) / 1000;
        if earned > 0 {
            self.allowance = u64::from(self.allowance).saturating_add(earned).min(BURST.into()) as u32;
            self.refilled += Duration::from_millis(earned * 1000 / u64::from(PER_SECOND));
        }
    }

    fn report_dropped(&mut self, line: &mut impl FnMut(&str)) {
        if self.dropped > 0 {
            line(&format!("({} lines dropped)", std::mem::take(&mut self.dropped)));
        }
    }
}

/// Text without control characters, which could forge other lines or drive a terminal.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim_end_matches('\r')
        .chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(chunks: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut got) = (Lines::new(), Vec::new());
        for chunk in chunks {
            lines.feed(chunk, |line| got.push(line.to_owned()));
        }
        lines.end(|line| got.push(line.to_owned()));
        got
    }

    #[test]
    fn lines_are_cut_wherever_the_chunks_end() {
        assert_eq!(collect(&[b"on", b"e\r\ntwo\nth", b"ree"]), ["one", "two", "three"]);
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_is_whole() {
        let long = vec![b'x'; 5000];
        assert_eq!(collect(&[&long, b"\nnext\n"]), ["x".repeat(MAX_LINE), "next".to_owned()]);
    }

    #[test]
    fn control_characters_do_not_pass() {
        assert_eq!(collect(&[b"a\x1b[2Jb\n"]), ["a\u{fffd}[2Jb"]);
    }

    #[test]
    fn a_flood_is_dropped_and_counted() {
        let got = collect(&[&b"x\n".repeat(100_000)]);
        assert!(got.len() < 2 * BURST as usize, "{} lines", got.len());
        assert!(got.last().unwrap().ends_with("lines dropped)"), "{:?}", got.last());
    }
}
