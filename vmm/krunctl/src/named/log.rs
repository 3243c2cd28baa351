//! What a VM's command writes, in a file that does not grow without end: a full one becomes `log.1`, whose predecessor goes.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};

use crate::stdio::CHUNK;

/// How large each of the two files may become, in bytes.
const MAX: u64 = 16 << 20;

/// The file with what was written last.
pub const NAME: &str = "log";

/// The file with what was written before.
pub const BEFORE: &str = "log.1";

struct Log {
    file: File,
    path: PathBuf,
    length: u64,
    max: u64,
}

impl Log {
    fn open(directory: &Path, max: u64) -> io::Result<Log> {
        let path = directory.join(NAME);
        let file = File::options().append(true).create(true).open(&path)?;
        let length = file.metadata()?.len();
        Ok(Log { file, path, length, max })
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if self.length + data.len() as u64 > self.max {
            fs::rename(&self.path, self.path.with_file_name(BEFORE))?;
            self.file = File::options().append(true).create(true).open(&self.path)?;
            self.length = 0;
        }
        self.file.write_all(data)?;
        self.length += data.len() as u64;
        Ok(())
    }
}

/// Copies FIFOs to the log in `directory` until the last writer of each has closed it.
pub struct Copies(Vec<JoinHandle<()>>);

impl Copies {
    /// Begins to copy.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn start(directory: &Path, fifos: Vec<PathBuf>) -> Result<Copies> {
        let log = Log::open(directory, MAX)
            .with_context(|| format!("opening the log in {}", directory.display()))?;
        let log = Arc::new(Mutex::new(log));
        let copy = |fifo: PathBuf| {
            let log = log.clone();
            thread::spawn(move || {
                if let Ok(fifo) = File::open(fifo) {
                    copy(fifo, &log);
                }
            })
        };
        Ok(Copies(fifos.into_iter().map(copy).collect()))
    }

    /// Waits until all is written. The container must have ended.
    pub fn finish(self) {
        for copy in self.0 {
            let _ = copy.join();
        }
    }
}

/// A disk that is full loses output, and does not stop the command.
fn copy(mut fifo: impl Read, log: &Mutex<Log>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match fifo.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = log.write(&buffer[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_two_files_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let log = Mutex::new(Log::open(dir.path(), 10).unwrap());
        for data in ["12345", "67890", "abcde", "fghij", "klmno"] {
            copy(data.as_bytes(), &log);
        }
        let text = |name| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((text(BEFORE).as_str(), text(NAME).as_str()), ("abcdefghij", "klmno"));
        // A later start goes on with it.
        Log::open(dir.path(), 10).unwrap().write(b"pqrst").unwrap();
        assert_eq!(text(NAME), "klmnopqrst");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
