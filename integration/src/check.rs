//! Assertions whose failure says what was seen.

use crate::command::Output;
use anyhow::{Result, ensure};

impl Output {
    /// The command ended with this status.
    pub fn expect_status(self, status: i32) -> Result<Self> {
        ensure!(self.status == status, "status {} where {status} was expected: {self}", self.status);
        Ok(self)
    }

    /// The command succeeded.
    pub fn ok(self) -> Result<Self> {
        self.expect_status(0)
    }

    /// The command failed, in the way of a refusal: it printed something that contains each of `words` (in any case).
    pub fn refused(self, words: &[&str]) -> Result<Self> {
        ensure!(self.status != 0, "this was to be refused and was not: {self}");
        let printed = self.stderr_text().to_lowercase();
        for word in words {
            ensure!(printed.contains(&word.to_lowercase()), "the error does not say \"{word}\": {self}");
        }
        Ok(self)
    }

    /// Standard output is exactly this.
    pub fn printed(self, text: &str) -> Result<Self> {
        ensure!(
            self.stdout_text() == text,
            "printed {:?} where {text:?} was expected: {self}",
            self.stdout_text()
        );
        Ok(self)
    }

    /// Standard output has this line.
    pub fn has_line(self, line: &str) -> Result<Self> {
        ensure!(self.stdout_text().lines().any(|l| l == line), "no line {line:?} in the output: {self}");
        Ok(self)
    }
}
