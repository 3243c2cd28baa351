//! Running a command of the box: output captured, standard input fed, never for longer than its time.
//!
//! Each finished command leaves a line and its stderr on this process's own stdout; the runner shows that transcript
//! when the scenario fails.

use crate::wait::until;
use anyhow::{Context, Result, bail};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Long enough for a microVM boot in an emulated, busy box.
const USUAL_TIMEOUT: Duration = Duration::from_secs(120);

enum Stdin {
    Null,
    Bytes(Vec<u8>),
    Held,
}

/// A command to be run.
pub struct Cmd {
    argv: Vec<String>,
    stdin: Stdin,
    hold_stdout: bool,
    timeout: Duration,
}

impl Cmd {
    pub fn new<S: AsRef<str>>(argv: &[S]) -> Self {
        let argv = argv.iter().map(|s| s.as_ref().to_owned()).collect();
        Self { argv, stdin: Stdin::Null, hold_stdout: false, timeout: USUAL_TIMEOUT }
    }

    /// Writes this to standard input and closes it; without, standard input is /dev/null.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Keeps standard input open for [`Running::say`].
    pub fn hold_stdin(mut self) -> Self {
        self.stdin = Stdin::Held;
        self
    }

    /// Leaves standard output unread until [`Running::release_stdout`].
    pub fn hold_stdout(mut self) -> Self {
        self.hold_stdout = true;
        self
    }

    pub fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Result<Output> {
        self.spawn()?.finish()
    }

    pub fn spawn(self) -> Result<Running> {
        let title = title(&self.argv);
        let mut child = Command::new(&self.argv[0])
            .args(&self.argv[1..])
            .stdin(if matches!(self.stdin, Stdin::Null) { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {title}"))?;
        if let Stdin::Bytes(bytes) = self.stdin {
            let mut pipe = child.stdin.take().context("stdin is piped")?;
            // A command that ends without reading everything makes this fail, and its status tells the story.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let stdout = child.stdout.take().context("stdout is piped")?;
        let (held, stdout) =
            if self.hold_stdout { (Some(stdout), None) } else { (None, Some(Collected::from(stdout))) };
        let stderr = Collected::from(child.stderr.take().context("stderr is piped")?);
        Ok(Running { title, child, held, stdout, stderr, begun: Instant::now(), timeout: self.timeout })
    }
}

/// A command under way; killed when dropped.
pub struct Running {
    title: String,
    child: Child,
    held: Option<ChildStdout>,
    stdout: Option<Collected>,
    stderr: Collected,
    begun: Instant,
    timeout: Duration,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Gives it this much time from now on, instead of the time since its start.
    pub fn allow(&mut self, time: Duration) {
        self.timeout = self.begun.elapsed() + time;
    }

    /// Standard output so far.
    pub fn stdout_now(&self) -> Vec<u8> {
        self.stdout.as_ref().map(Collected::now).unwrap_or_default()
    }

    /// How many bytes of standard output there are so far.
    pub fn stdout_len(&self) -> usize {
        self.stdout.as_ref().map_or(0, Collected::len)
    }

    /// Standard error so far.
    pub fn stderr_now(&self) -> Vec<u8> {
        self.stderr.now()
    }

    /// Writes to the standard input that [`Cmd::hold_stdin`] kept open.
    pub fn say(&mut self, text: &str) -> Result<()> {
        let pipe = self.child.stdin.as_mut().context("stdin is not held")?;
        pipe.write_all(text.as_bytes()).with_context(|| format!("write to {}", self.title))
    }

    /// Begins to read what [`Cmd::hold_stdout`] left in the pipe.
    pub fn release_stdout(&mut self) {
        if let Some(pipe) = self.held.take() {
            self.stdout = Some(Collected::from(pipe));
        }
    }

    /// Waits until standard output contains `text`; a command that ends before is an error.
    pub fn wait_for_stdout(&mut self, text: &str) -> Result<()> {
        self.wait_for(text, |r| r.stdout_now(), contains(text))
    }

    /// Waits until standard output contains `text` after its first `from` bytes, and answers where `text` ends.
    pub fn wait_for_stdout_after(&mut self, from: usize, text: &str) -> Result<usize> {
        let after = |stdout: &[u8]| {
            let rest = stdout.get(from..)?;
            let at = rest.windows(text.len()).position(|window| window == text.as_bytes())?;
            Some(from + at + text.len())
        };
        self.wait_for(text, |running| running.stdout_now(), |stdout| after(stdout).is_some())?;
        after(&self.stdout_now()).with_context(|| format!("{text:?} after {from} bytes"))
    }

    /// Waits until standard error contains `text`; a command that ends before is an error.
    pub fn wait_for_stderr(&mut self, text: &str) -> Result<()> {
        self.wait_for(text, |r| r.stderr_now(), contains(text))
    }

    fn wait_for(
        &mut self,
        text: &str,
        stream: fn(&Self) -> Vec<u8>,
        is_there: impl Fn(&[u8]) -> bool,
    ) -> Result<()> {
        let what = format!("{text:?} from {}", self.title);
        let found = until(&what, self.timeout, || {
            let ended = self.child.try_wait()?.is_some();
            let seen = is_there(&stream(self));
            Ok(if seen { Some(true) } else { ended.then_some(false) })
        });
        match found {
            Ok(true) => Ok(()),
            Ok(false) => {
                bail!("ended without {what}; stderr: {}", String::from_utf8_lossy(&self.stderr_now()))
            }
            Err(e) => Err(e.context(format!("stderr: {}", String::from_utf8_lossy(&self.stderr_now())))),
        }
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Sends a signal to the command itself.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        nix::sys::signal::kill(pid, signal).with_context(|| format!("send {signal} to {}", self.title))
    }

    /// Waits for its end; beyond its time it is killed, which is an error.
    pub fn finish(mut self) -> Result<Output> {
        self.release_stdout();
        drop(self.child.stdin.take());
        let left = self.timeout.saturating_sub(self.begun.elapsed());
        let status = until(&format!("the end of {}", self.title), left, || Ok(self.child.try_wait()?));
        let status = match status {
            Ok(status) => status,
            Err(e) => {
                self.child.kill().context("kill what took too long")?;
                let stderr = String::from_utf8_lossy(&self.stderr_now()).into_owned();
                transcribe(&self.title, "took too long", self.begun, &stderr);
                return Err(e.context(format!("its stderr: {stderr:?}")));
            }
        };
        let output = Output {
            title: self.title.clone(),
            status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: self.stdout.take().map(Collected::all).unwrap_or_default(),
            stderr: std::mem::take(&mut self.stderr).all(),
        };
        transcribe(&self.title, &format!("status {}", output.status), self.begun, &output.stderr_text());
        Ok(output)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail, rightly, when it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a finished command left.
pub struct Output {
    title: String,
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} [status {}; stderr: {}]", self.title, self.status, self.stderr_text().trim())?;
        let stdout = self.stdout_text();
        if stdout.is_empty() { Ok(()) } else { write!(f, " [stdout: {}]", shortened(stdout.trim(), 600)) }
    }
}

/// A pipe that a thread reads to its end.
#[derive(Default)]
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = bytes.clone();
        let reader = std::thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            while let Ok(n @ 1..) = pipe.read(&mut chunk) {
                sink.lock().expect("no reader panics").extend_from_slice(&chunk[..n]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn now(&self) -> Vec<u8> {
        self.bytes.lock().expect("no reader panics").clone()
    }

    fn len(&self) -> usize {
        self.bytes.lock().expect("no reader panics").len()
    }

    /// Everything up to end of file.
    fn all(mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no reader panics");
        }
        std::mem::take(&mut *self.bytes.lock().expect("no reader panics"))
    }
}

fn contains(text: &str) -> impl Fn(&[u8]) -> bool {
    move |stream| String::from_utf8_lossy(stream).contains(text)
}

fn title(argv: &[String]) -> String {
    argv.iter().map(|a| shortened(a, 120)).collect::<Vec<_>>().join(" ")
}

fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    format!("{}…", text.chars().take(limit).collect::<String>())
}

fn transcribe(title: &str, ending: &str, begun: Instant, stderr: &str) {
    println!("$ {title}\n  {ending} after {:.1} s", begun.elapsed().as_secs_f64());
    for line in stderr.lines() {
        println!("  | {line}");
    }
}
