//! What commands print on standard output. `println!` panics where that cannot be written.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
};

use anyhow::{Context, Result};

/// Prints a line.
///
/// # Errors
/// When it cannot be written, but not when nobody reads on: whoever did has enough.
pub fn line(text: impl Display) -> Result<()> {
    write(&mut io::stdout(), text)
}

fn write(out: &mut impl Write, text: impl Display) -> Result<()> {
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::pipe};

    use super::*;

    #[test]
    fn a_full_disk_is_an_error_and_a_reader_that_left_is_none() {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let error = format!("{:#}", write(&mut full, "x").unwrap_err());
        assert!(error.contains("standard output: No space left"), "{error}");
        let (reader, mut writer) = pipe().unwrap();
        drop(reader);
        write(&mut writer, "x").unwrap();
    }
}
