//! `krunctl logs`: what a VM's command has written.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::MetadataExt,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;

use super::{
    log::{BEFORE, NAME},
    state::{Condition, State},
};
use crate::vm;

/// How often the log is looked at.
const OFTEN: Duration = Duration::from_millis(100);

/// Bytes that are copied at once.
const CHUNK: usize = 64 << 10;

/// The flags of `logs`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    name: super::Name,
    /// Go on until the VM ends
    #[arg(short = 'f', long)]
    follow: bool,
}

/// Prints the log.
///
/// # Errors
/// When it cannot be read.
pub fn run(arguments: &Arguments) -> Result<u8> {
    match print(arguments) {
        // Whoever read it has enough.
        Err(error) if is_unread(&error) => Ok(0),
        printed => printed,
    }
}

fn is_unread(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn print(arguments: &Arguments) -> Result<u8> {
    vm::check_root()?;
    let state = State::open(&arguments.name.name)?;
    let path = state.path(NAME);
    let failed = || format!("reading {}", path.display());
    if let Ok(before) = File::open(state.path(BEFORE)) {
        copy(before)?;
    }
    let mut file = open(&state).with_context(failed)?;
    loop {
        // Asked before the log is read: what a VM wrote before its end is in it by then.
        let is_running = arguments.follow && state.condition()? == Condition::Running;
        if let Some(open_file) = &mut file {
            copy(open_file).with_context(failed)?;
        }
        if !is_running {
            return Ok(0);
        }
        thread::sleep(OFTEN);
        let now = open(&state).with_context(failed)?;
        if inode(&now) != inode(&file) {
            // It was full. What is left of it is printed first.
            if let Some(old) = &mut file {
                copy(old).with_context(failed)?;
            }
            file = now;
        }
    }
}

/// The log; none before the first start.
fn open(state: &State) -> io::Result<Option<File>> {
    match File::open(state.path(NAME)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

fn inode(file: &Option<File>) -> Option<u64> {
    file.as_ref()?.metadata().ok().map(|found| found.ino())
}

/// Prints what is new in a file.
fn copy(mut file: impl Read) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return io::stdout().flush(),
            count => io::stdout().write_all(&buffer[..count])?,
        }
    }
}
