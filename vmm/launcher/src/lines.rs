//! The lines of a writer that is not trusted, made fit for the host's log: limited in length and in rate, and without
//! control characters. The writer is never made to wait.

use std::time::Duration;

use tokio::time::Instant;

/// Maximum length of a line in bytes, after invalid bytes were replaced. The rest of a longer line is dropped.
pub const MAX_LINE: usize = 1024;

/// Number of lines that pass at once after a pause.
const BURST: u32 = 200;

/// Number of lines that pass in a second in the long run.
const PER_SECOND: u32 = 5;

/// The time in which one line is earned.
const PER_LINE: Duration = Duration::from_millis(1000 / PER_SECOND as u64);

/// Decides which lines pass: `burst` at once, and five in a second in the long run.
#[derive(Debug)]
pub struct Rate {
    burst: u32,
    /// The number of lines that may pass now.
    allowance: u32,
    refilled: Instant,
    dropped: u64,
}

impl Rate {
    /// Allows `burst` lines at once.
    pub fn new(burst: u32) -> Rate {
        Rate { burst, allowance: burst, refilled: Instant::now(), dropped: 0 }
    }

    /// Whether the next line passes. If it does, a summary comes first when lines before it were dropped.
    pub fn admit(&mut self) -> Option<Option<String>> {
        self.refill();
        // During a flood, the summary and the lines after it come once a second.
        let needed = if self.dropped > 0 { PER_SECOND } else { 1 };
        if self.allowance < needed {
            self.dropped += 1;
            return None;
        }
        let summary = self.end();
        self.allowance -= 1;
        Some(summary)
    }

    /// The summary of the lines that were dropped since the last.
    pub fn end(&mut self) -> Option<String> {
        if self.dropped == 0 {
            return None;
        }
        self.allowance = self.allowance.saturating_sub(1);
        Some(format!("... and {} more lines", std::mem::take(&mut self.dropped)))
    }

    fn refill(&mut self) {
        let earned = self.refilled.elapsed().as_nanos() / PER_LINE.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.allowance = self.allowance.saturating_add(earned).min(self.burst);
        self.refilled += PER_LINE * earned;
    }
}

/// Splits a stream of bytes into lines.
pub struct Lines {
    partial: Vec<u8>,
    rate: Rate,
}

impl Default for Lines {
    fn default() -> Self {
        Lines { partial: Vec::new(), rate: Rate::new(BURST) }
    }
}

impl Lines {
    /// Takes the next bytes, and passes the lines that they complete to `pass`.
    pub fn feed(&mut self, bytes: &[u8], mut pass: impl FnMut(&str)) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, complete) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            let room = MAX_LINE - self.partial.len();
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            if complete {
                self.finish(&mut pass);
            }
        }
    }

    /// The stream has ended: passes a last line without a newline, and the number of dropped lines.
    pub fn end(&mut self, mut pass: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.finish(&mut pass);
        }
        if let Some(summary) = self.rate.end() {
            pass(&summary);
        }
    }

    fn finish(&mut self, pass: &mut impl FnMut(&str)) {
        let line = std::mem::take(&mut self.partial);
        let Some(summary) = self.rate.admit() else { return };
        if let Some(summary) = summary {
            pass(&summary);
        }
        pass(&printable(&line));
    }
}

/// Replaces control characters, which could forge other lines or control a terminal, and limits the result to
/// [`MAX_LINE`] bytes: a replacement has three bytes.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes).trim_end_matches('\r').chars() {
        let c = if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
        if text.len() + c.len_utf8() > MAX_LINE {
            break;
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn collect(chunks: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut passed) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.feed(chunk, |line| passed.push(line.to_owned()));
        }
        lines.end(|line| passed.push(line.to_owned()));
        passed
    }

    #[test]
    fn a_line_may_span_chunks() {
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
    fn a_line_of_invalid_bytes_is_no_longer_than_others() {
        let passed = collect(&[&[0xff; MAX_LINE]]);
        assert!((MAX_LINE - 2..=MAX_LINE).contains(&passed[0].len()), "{}", passed[0].len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_passes_as_a_burst_and_a_number() {
        let passed = collect(&[&b"x\n".repeat(1000)]);
        assert_eq!(passed.len(), BURST as usize + 1);
        assert_eq!(passed[BURST as usize], "... and 800 more lines");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_flood_passes_at_the_rate_and_is_counted() {
        let (mut lines, mut passed) = (Lines::default(), Vec::new());
        for _ in 0..600 {
            lines.feed(&b"x\n".repeat(100), |line| passed.push(line.to_owned()));
            advance(Duration::from_millis(100)).await;
        }
        lines.end(|line| passed.push(line.to_owned()));
        // One more summary at the end.
        let most = (BURST + 60 * PER_SECOND) as usize + 1;
        assert!((most - 10..=most).contains(&passed.len()), "{} of {most}", passed.len());
        let (summaries, whole): (Vec<_>, Vec<_>) =
            passed.iter().partition(|line| line.starts_with("... and "));
        let dropped: usize =
            summaries.iter().map(|line| line.split(' ').nth(2).unwrap().parse::<usize>().unwrap()).sum();
        assert_eq!(dropped + whole.len(), 60_000);
        assert!(summaries.len() <= 61, "{} summaries", summaries.len());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_lines_pass_again() {
        let (mut lines, mut passed) = (Lines::default(), Vec::new());
        lines.feed(&b"x\n".repeat(BURST as usize + 7), |_| ());
        advance(Duration::from_secs(60)).await;
        lines.feed(b"y\nz\n", |line| passed.push(line.to_owned()));
        assert_eq!(passed, ["... and 7 more lines", "y", "z"]);
    }
}
