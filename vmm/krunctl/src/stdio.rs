//! Copies between stdin, stdout and stderr and the FIFOs of a process in the VM.
//!
//! Each copy blocks in a thread of its own: the descriptors can be of any kind, and O_NONBLOCK would affect every process
//! that shares them.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    mem::ManuallyDrop,
    os::fd::{FromRawFd, RawFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{sys::stat::Mode, unistd::mkfifo};
use shim::direct::StdioPaths;
use tokio::{sync::oneshot, time::timeout};

/// Bytes that are copied at once.
pub const CHUNK: usize = 64 << 10;

/// The FIFOs of one process, which are removed when this is dropped.
pub struct Fifos {
    stdin: Option<PathBuf>,
    stdout: PathBuf,
    stderr: Option<PathBuf>,
    outputs: Vec<Copying>,
}

/// A copy of one output.
struct Copying {
    done: oneshot::Receiver<()>,
    progress: Arc<Progress>,
}

/// How far a copy is.
#[derive(Default)]
struct Progress {
    /// Chunks that were read.
    chunks: AtomicU64,
    /// Whether one is being written: its reader has all the time that it wants.
    is_writing: AtomicBool,
}

/// How long an output may be silent after its process has ended.
const SILENCE: Duration = Duration::from_secs(2);

/// How many such times there may be in which it was not silent, and we did not wait for its reader. What was on its way is here by
/// then; the guest could go on for ever.
const ROUNDS: u32 = 15;

impl Fifos {
    /// Makes them in `directory`, with names that begin with `name`.
    pub fn make(directory: &Path, name: &str, stdin: bool, terminal: bool) -> Result<Fifos> {
        let path = |stream: &str| directory.join(format!("{name}-{stream}"));
        // Its drop removes those that were made.
        let fifos = Fifos {
            stdin: stdin.then(|| path("stdin")),
            stdout: path("stdout"),
            stderr: (!terminal).then(|| path("stderr")),
            outputs: Vec::new(),
        };
        for path in
            [fifos.stdin.as_deref(), Some(&*fifos.stdout), fifos.stderr.as_deref()].into_iter().flatten()
        {
            make(path)?;
        }
        Ok(fifos)
    }

    /// Their paths, for the sandbox.
    pub fn paths(&self) -> StdioPaths {
        let text = |path: &Path| path.display().to_string();
        let optional = |path: &Option<PathBuf>| path.as_deref().map(text).unwrap_or_default();
        StdioPaths {
            stdin: optional(&self.stdin),
            stdout: text(&self.stdout),
            stderr: optional(&self.stderr),
            terminal: self.stderr.is_none(),
        }
    }

    /// As [`Fifos::paths`], of a process whose output nobody wants.
    pub fn input_only(&self) -> StdioPaths {
        StdioPaths { stdin: self.paths().stdin, ..StdioPaths::default() }
    }

    /// Copies the output from now on. It is to be called before the sandbox has the paths.
    pub fn start_output(&mut self) {
        let outputs = [(Some(self.stdout.clone()), 1), (self.stderr.clone(), 2)];
        for (path, fd) in outputs.into_iter().filter_map(|(path, fd)| Some((path?, fd))) {
            let (done, copied) = oneshot::channel();
            let progress = Arc::new(Progress::default());
            self.outputs.push(Copying { done: copied, progress: progress.clone() });
            thread::spawn(move || {
                // It waits for the sandbox to open its end.
                if let Ok(fifo) = File::open(path) {
                    copy(fifo, &*standard(fd), &progress);
                }
                let _ = done.send(());
            });
        }
    }

    /// Copies the input to the process, which runs; `close` then says that there will be no more.
    pub fn start_input(&self, close: impl Future<Output = ()> + Send + 'static) {
        self.feed(|fifo| copy(&*standard(0), fifo, &Progress::default()), close);
    }

    /// As [`Fifos::start_input`], with `bytes` as the whole input instead of ours.
    pub fn send(&self, bytes: Vec<u8>, close: impl Future<Output = ()> + Send + 'static) {
        // The process may end without reading it all, which is no failure.
        self.feed(move |mut fifo| drop(fifo.write_all(&bytes)), close);
    }

    fn feed(
        &self,
        feed: impl FnOnce(File) + Send + 'static,
        close: impl Future<Output = ()> + Send + 'static,
    ) {
        let Some(path) = self.stdin.clone() else { return };
        let (done, fed) = oneshot::channel();
        thread::spawn(move || {
            if let Ok(fifo) = File::options().write(true).open(path) {
                feed(fifo);
            }
            let _ = done.send(());
        });
        tokio::spawn(async move {
            let _ = fed.await;
            close.await;
        });
    }

    /// Waits until all output is written, or its reader is gone. The process must have ended.
    pub async fn drained(&mut self) {
        for output in &mut self.outputs {
            let _ = (&mut output.done).await;
        }
        self.outputs.clear();
    }

    /// As [`Fifos::drained`], but for no longer than there is output to write, and then [some time](SILENCE).
    pub async fn idle(&mut self) {
        for output in &mut self.outputs {
            let seen = |progress: &Progress| progress.chunks.load(Ordering::Acquire);
            let mut before = seen(&output.progress);
            let mut rounds = 0;
            while timeout(SILENCE, &mut output.done).await.is_err() {
                let now = seen(&output.progress);
                let is_writing = output.progress.is_writing.load(Ordering::Acquire);
                rounds += u32::from(!is_writing);
                if !is_writing && (now == before || rounds > ROUNDS) {
                    break;
                }
                before = now;
            }
        }
        self.outputs.clear();
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        for path in [self.stdin.as_deref(), Some(&*self.stdout), self.stderr.as_deref()].into_iter().flatten()
        {
            let _ = fs::remove_file(path);
        }
    }
}

fn make(path: &Path) -> Result<()> {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).with_context(|| format!("making {}", path.display()))
}

/// A standard descriptor of this process, which stays open.
fn standard(fd: RawFd) -> ManuallyDrop<File> {
    // SAFETY: descriptors 0 to 2 are open for the life of the process, and this never closes one.
    ManuallyDrop::new(unsafe { File::from_raw_fd(fd) })
}

/// Copies until the input ends, or nobody reads what is copied any more.
fn copy(mut from: impl Read, mut to: impl Write, progress: &Progress) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                progress.is_writing.store(true, Ordering::Release);
                progress.chunks.fetch_add(1, Ordering::AcqRel);
                let written = to.write_all(&buffer[..count]);
                progress.is_writing.store(false, Ordering::Release);
                if written.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
