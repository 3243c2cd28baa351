//! The guest kernel's console, with `--debug-console`: the sandbox has a file for it, whose text goes to stderr.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::PathBuf,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;

use crate::bundle::Bundle;

/// How often the file is looked at.
const OFTEN: Duration = Duration::from_millis(100);

/// Prints what the kernel says, until it is dropped.
pub struct Console(Option<(Sender<()>, JoinHandle<()>)>);

impl Console {
    /// That of the VM of `bundle`, if it is wanted.
    pub fn of(bundle: &Bundle, is_wanted: bool) -> Result<Console> {
        if !is_wanted {
            return Ok(Console(None));
        }
        let path = bundle.write(&format!("{}.log", bundle.id()), b"")?;
        let (end, ended) = mpsc::channel();
        let print = thread::spawn(move || print(path, &ended));
        Ok(Console(Some((end, print))))
    }
}

fn print(path: PathBuf, ended: &mpsc::Receiver<()>) {
    let Ok(mut file) = File::open(path) else { return };
    let mut text = Vec::new();
    loop {
        let is_over = !matches!(ended.recv_timeout(OFTEN), Err(RecvTimeoutError::Timeout));
        text.clear();
        let read = file.read_to_end(&mut text);
        if read.is_err() || io::stderr().write_all(&text).is_err() || is_over {
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
