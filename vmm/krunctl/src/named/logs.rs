//! `krunctl logs`: what a VM's command has written.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::MetadataExt,
    thread,
};

use anyhow::{Context, Result};
use clap::Args;

use super::{
    log::{BEFORE, NAME},
    state::State,
};
use crate::{
    stdio::CHUNK,
    vm,
    watch::{Heard, Watch},
};

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
    // It hears of what is written after this.
    let watch = arguments.follow.then(|| follow(&state)).transpose()?;
    let mut file = open(&state).with_context(failed)?;
    let mut goes_on = watch.is_some();
    loop {
        if let Some(open_file) = &mut file {
            copy(open_file).with_context(failed)?;
        }
        let now = open(&state).with_context(failed)?;
        if inode(&now) != inode(&file) {
            // The one before was full.
            file = now;
            if let Some(new) = &mut file {
                copy(new).with_context(failed)?;
            }
        }
        match &watch {
            // The log is read once more after the end: what the VM wrote before it is there by then.
            Some(watch) if goes_on => goes_on = watch.wait()? == Heard::Change,
            _ => return Ok(0),
        }
    }
}

/// Watches the log until the VM's keeper ends.
fn follow(state: &State) -> Result<Watch> {
    let (watch, end) = Watch::of(&state.path("."))?;
    let kept = State::open(state.name())?;
    // The lock cannot be waited for otherwise. The thread ends with the keeper, or with us.
    thread::spawn(move || {
        let _ = kept.wait_for_keeper();
        drop(end);
    });
    Ok(watch)
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
