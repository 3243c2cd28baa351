//! What a hook that was cut off has started, and what goes on without it: a CNI plugin would make an address after the hooks
//! that remove it have run.
//!
//! A hook and all that it starts have a variable in their environment that no other hook's have. One that ends by itself may
//! leave processes, as network plugins do; those of one that is killed are waited for, and then killed as well.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use linux::pidfd::Pidfd;
use nix::{sys::signal::Signal, unistd::Pid};

/// The variable's name.
pub const MARK: &str = "KRUN_HOOK";

/// How long what a hook has begun may take to end by itself.
const PATIENCE: Duration = Duration::from_millis(700);

/// How much of a process's environment is looked at, in bytes. The variable comes soon: hooks have few others.
const MAX_ENVIRONMENT: u64 = 256 << 10;

/// How often a process without an environment is looked at, and how long after each time.
const LOOKS: usize = 3;
const PAUSE: Duration = Duration::from_millis(2);

/// The variable's value for the hook of this number of the container with this bundle.
pub fn mark(bundle: &Path, number: u32) -> String {
    format!("{}#{number}", bundle.display())
}

/// Ends what bears this mark. What was killed may take `killed` to go. Blocks for that and [`PATIENCE`], and for as long as a
/// process keeps its environment from being read: it can map a file of a hung file system there.
///
/// # Errors
/// When something still runs.
pub fn end(mark: &str, killed: Duration) -> io::Result<()> {
    end_within(mark, PATIENCE, killed)
}

fn end_within(mark: &str, patience: Duration, killed: Duration) -> io::Result<()> {
    let patient = Instant::now() + patience;
    for process in bearing(mark)? {
        process.ends_within(patient.saturating_duration_since(Instant::now()))?;
    }
    let deadline = Instant::now() + killed;
    loop {
        // Those that were started meanwhile as well.
        let left = bearing(mark)?;
        if left.is_empty() {
            return Ok(());
        }
        for process in &left {
            // It may have ended by itself.
            let _ = process.signal(Signal::SIGKILL);
        }
        for process in &left {
            if !process.ends_within(deadline.saturating_duration_since(Instant::now()))? {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
        }
    }
}

/// Whether something runs that any hook of the container with this bundle has started.
#[cfg(test)]
pub fn is_left(bundle: &Path) -> bool {
    let begin = format!("{MARK}={}#", bundle.display());
    !with_variable(|variable| variable.starts_with(begin.as_bytes())).unwrap().is_empty()
}

/// The beginning of a process's environment. One that is just executing a program has none for a moment: it is looked at a few
/// times.
#[expect(clippy::disallowed_methods, reason = "a path of /proc")]
fn settled_environment(process: &Path) -> Vec<u8> {
    for _ in 0..LOOKS {
        let found = environment(process).unwrap_or_default();
        // Threads of the kernel and what has ended have no program either.
        if !found.is_empty() || fs::read_link(process.join("exe")).is_err() {
            return found;
        }
        thread::sleep(PAUSE);
    }
    Vec::new()
}

/// The beginning of a process's environment, which it can make as long as it likes.
#[expect(clippy::disallowed_methods, reason = "a path of /proc")]
fn environment(process: &Path) -> io::Result<Vec<u8>> {
    let mut environment = Vec::new();
    File::open(process.join("environ"))?.take(MAX_ENVIRONMENT).read_to_end(&mut environment)?;
    Ok(environment)
}

/// The processes with this mark.
fn bearing(mark: &str) -> io::Result<Vec<Pidfd>> {
    let wanted = format!("{MARK}={mark}");
    with_variable(|variable| variable == wanted.as_bytes())
}

/// The processes with such a variable in their environment.
#[expect(clippy::disallowed_methods, reason = "a path of /proc")]
fn with_variable(is_wanted: impl Fn(&[u8]) -> bool) -> io::Result<Vec<Pidfd>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // The pidfd is opened first, and so holds the process that is looked at, unless that has ended.
        let Ok(process) = Pidfd::open(Pid::from_raw(pid)) else { continue };
        let environment = settled_environment(&entry.path());
        if environment.split(|&byte| byte == 0).any(&is_wanted) {
            found.push(process);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn what_a_hook_has_started_ends_and_what_another_has_stays() {
        let bundle = tempfile::tempdir().unwrap();
        let [ours, theirs] = [1, 2].map(|number| mark(bundle.path(), number));
        let begin = |mark: &str| {
            // The shell ends, and what it has started goes on in a session of its own; it waits for a FIFO's writer.
            let fifo = bundle.path().join(mark.rsplit('#').next().unwrap()).display().to_string();
            let goes_on = "setsid sh -c 'mkfifo \"$0\"; echo up; read line <\"$0\"' \"$0\" &";
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", goes_on, &fifo]).env(MARK, mark).stdout(Stdio::piped());
            let mut child = shell.spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            child.wait().unwrap();
        };
        begin(&ours);
        begin(&theirs);
        end_within(&ours, Duration::from_millis(10), Duration::from_secs(10)).unwrap();
        assert!(bearing(&ours).unwrap().is_empty());
        assert_eq!(bearing(&theirs).unwrap().len(), 1);
        end_within(&theirs, Duration::ZERO, Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn what_ends_soon_is_waited_for() {
        let bundle = tempfile::tempdir().unwrap();
        let (mark, made) = (mark(bundle.path(), 1), bundle.path().join("made"));
        let script = format!("sleep 0.2; touch {}", made.display());
        let mut child = Command::new("/bin/sh").args(["-c", &script]).env(MARK, &mark).spawn().unwrap();
        end_within(&mark, Duration::from_secs(20), Duration::from_secs(10)).unwrap();
        child.wait().unwrap();
        assert!(made.exists());
    }
}
