//! The guest kernel's console, with `--debug-console`: the sandbox has a file for it, whose text goes to stderr.

use std::{
    fs::File,
    io,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};

use crate::{
    bundle::Bundle,
    watch::{End, Heard, Watch},
};

/// Prints what the kernel says, until it is dropped.
pub struct Console(Option<(End, JoinHandle<()>)>);

impl Console {
    /// That of the VM of `bundle`, if it is wanted.
    ///
    /// # Errors
    /// When its file cannot be made or watched.
    pub fn of(bundle: &Bundle, is_wanted: bool) -> Result<Console> {
        if !is_wanted {
            return Ok(Console(None));
        }
        let path = bundle.write(&format!("{}.log", bundle.id()), b"")?;
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let (watch, end) = Watch::of(bundle.path())?;
        let print = thread::spawn(move || print(file, &watch));
        Ok(Console(Some((end, print))))
    }
}

/// The file is read once more after the end.
fn print(mut file: File, watch: &Watch) {
    loop {
        let heard = watch.wait();
        if io::copy(&mut file, &mut io::stderr()).is_err() || !matches!(heard, Ok(Heard::Change)) {
            return;
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some((end, print)) = self.0.take() {
            drop(end);
            // It has nothing to wait for but stderr.
            let _ = print.join();
        }
    }
}
