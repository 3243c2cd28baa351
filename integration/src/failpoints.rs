//! The points at which containerd-shim-krunfp-v2, and hooks and loggers of a scenario's own, wait for the scenario:
//! `shim/src/failpoint.rs` has the other side.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};

/// Where the shim looks for a test.
const SOCKET: &str = "/run/krun-failpoints.sock";

type Armed = Arc<Mutex<HashMap<String, Sender<Held>>>>;

/// The points. Whoever comes to one that is not armed goes on at once.
pub struct Points {
    armed: Armed,
}

impl Points {
    /// Listens until this process ends.
    pub fn listen() -> Result<Points> {
        // One that was killed has left its socket.
        let _ = std::fs::remove_file(SOCKET);
        crate::undo::remember(&["rm", "-f", SOCKET])?;
        let listener = UnixListener::bind(SOCKET).with_context(|| format!("listen on {SOCKET}"))?;
        let armed = Armed::default();
        let seen = armed.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let armed = seen.clone();
                std::thread::spawn(move || admit(stream, &armed));
            }
        });
        Ok(Points { armed })
    }

    /// Has the next one that comes to the point `name` wait.
    pub fn arm(&self, name: &str) -> Point {
        let (sender, held) = channel();
        self.armed.lock().expect("nobody panics").insert(name.to_owned(), sender);
        Point(held)
    }

    /// Lets everybody pass whom nobody has met yet.
    pub fn disarm(&self) {
        self.armed.lock().expect("nobody panics").clear();
    }
}

fn admit(stream: UnixStream, armed: &Armed) {
    let mut line = String::new();
    if BufReader::new(&stream).read_line(&mut line).is_err() {
        return;
    }
    let Some((pid, name)) = line.trim_end().split_once(' ') else { return };
    let Ok(pid) = pid.parse() else { return };
    let waiting = armed.lock().expect("nobody panics").remove(name);
    if let Some(waiting) = waiting {
        // Nobody waits any more: the stream is dropped, and the point passed.
        let _ = waiting.send(Held { pid, _stream: stream });
    }
}

/// An armed point.
pub struct Point(Receiver<Held>);

impl Point {
    /// Who waits there, once somebody does.
    pub fn held(&self) -> Result<Option<Held>> {
        match self.0.try_recv() {
            Ok(held) => Ok(Some(held)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => anyhow::bail!("the point was disarmed"),
        }
    }
}

/// A process that waits at a point until this is dropped.
pub struct Held {
    pub pid: i32,
    _stream: UnixStream,
}

/// Waits at a point. Where no scenario listens it is passed.
pub fn reach(name: &str) -> Result<()> {
    let Ok(mut stream) = UnixStream::connect(SOCKET) else { return Ok(()) };
    writeln!(stream, "{} {name}", std::process::id()).context("reach the point")?;
    stream.read(&mut [0]).map(drop).context("wait at the point")
}

/// A logger of containerd's `binary://`: waits at the point `<name>.begun`, says that it is ready, waits at `<name>.ready`
/// and reads both outputs to their ends.
pub fn log(name: &str) -> Result<()> {
    // SAFETY: whoever starts a logger passes these descriptors, and nothing else here uses them.
    let [out, err, ready] = [3, 4, 5].map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
    reach(&format!("{name}.begun"))?;
    drop(ready);
    reach(&format!("{name}.ready"))?;
    let reader = std::thread::spawn(move || std::io::copy(&mut { err }, &mut std::io::sink()));
    std::io::copy(&mut { out }, &mut std::io::sink()).context("read standard output")?;
    drop(reader.join());
    Ok(())
}

/// The names of the points in the sources below a directory.
#[cfg(test)]
pub fn named_in(directory: &std::path::Path) -> std::collections::BTreeSet<String> {
    let mut found = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(named_in(&path));
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            let calls = text.split("failpoint!(").skip(1);
            found.extend(calls.filter_map(|call| Some(call.split('"').nth(1)?.to_owned())));
        }
    }
    found
}
