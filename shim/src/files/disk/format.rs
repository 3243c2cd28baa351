//! The one thing that the host writes to a disk: an empty ext4.

use std::{
    fs::File,
    io::{self, Read},
    process::{Command, Stdio},
};

/// What makes it, of Debian's package e2fsprogs, and where the host's root has such programs.
const FORMAT: &str = "mke2fs";
const PROGRAMS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What it is told: a journal, no blocks for root alone, and nothing to be written that is zero in a new file anyway. Its input is
/// the file. Source: mke2fs(8).
const OPTIONS: [&str; 11] = [
    "-q",
    "-F",
    "-t",
    "ext4",
    "-b",
    "4096",
    "-m",
    "0",
    "-E",
    "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
    "/proc/self/fd/0",
];

/// The most bytes of what it says that an error repeats.
const SAID: u64 = 1024;

/// Makes an empty file system in `file`.
///
/// # Errors
/// The program's, with what it says.
#[expect(clippy::disallowed_methods, reason = "a program of the host's root, by directories that are root's")]
pub fn format(file: &File) -> io::Result<()> {
    let mut command = Command::new(FORMAT);
    command.args(OPTIONS).env_clear().env("PATH", PROGRAMS);
    command.stdin(file.try_clone()?).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other(format!("{FORMAT} is in none of {PROGRAMS}: install e2fsprogs"))
        }
        _ => e,
    })?;
    let mut said = String::new();
    // What it says beyond that fills no pipe: reading goes on.
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.by_ref().take(SAID).read_to_string(&mut said);
        let _ = io::copy(&mut stderr, &mut io::sink());
    }
    let status = child.wait()?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{FORMAT}: {status}: {}", said.trim()))),
    }
}
