//! The names and numbers that every part of the shim uses: the runtime's name, a process's, and a VM's stream numbers.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use guest_protocol::mux;

use crate::error::{Error, Result};

/// The runtime's name, as in `ctr run --runtime`.
pub const RUNTIME: &str = "io.containerd.krun.v2";

/// The longest id, in bytes: it is a file's name in several places. Source: linux/limits.h, `NAME_MAX`.
const MAX: usize = 255;

/// Refuses an id that is no plain name, whoever chose it: ids become names of files and cgroups, here and in the guest, and
/// stand in log lines. containerd allows fewer. `what` says whose it is.
///
/// # Errors
/// `INVALID_ARGUMENT` that says what is allowed.
pub fn check(what: &str, id: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::invalid(format!("{what} {id:?}: {why}")));
    if id.is_empty() || id.len() > MAX {
        return Err(Error::invalid(format!("{what} of {} bytes: 1 to {MAX} are allowed", id.len())));
    }
    if id == "." || id == ".." {
        return refuse("it must be a name, not a directory");
    }
    if id.bytes().any(|byte| byte == b'/' || !byte.is_ascii_graphic()) {
        return refuse("it must have letters, digits and ASCII's punctuation only, but no /");
    }
    Ok(())
}

/// Names a process: a container's own, or an exec in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The container's id, which is also its task's.
    pub container: String,
    /// The exec's id; empty for the container's own process.
    pub exec: String,
}

impl ProcessId {
    /// The container's own process.
    pub fn init(container: &str) -> Self {
        ProcessId { container: container.to_owned(), exec: String::new() }
    }

    /// Whether this is the container's own process.
    pub fn is_init(&self) -> bool {
        self.exec.is_empty()
    }
}

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.is_init() {
            true => f.write_str(&self.container),
            false => write!(f, "{}/{}", self.container, self.exec),
        }
    }
}

/// Hands out the stream numbers of one VM. Clones share the count.
#[derive(Debug, Clone)]
pub struct StreamNumbers(Arc<AtomicU32>);

impl Default for StreamNumbers {
    fn default() -> Self {
        StreamNumbers(Arc::new(AtomicU32::new(mux::FIRST_STREAM)))
    }
}

impl StreamNumbers {
    /// One that was never used in this VM.
    pub fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_plain_name() {
        for id in ["a", "0f3c", "k8s_web.pod-1", "..a", "a..", "a+b", &"x".repeat(MAX)] {
            assert!(check("container id", id).is_ok(), "{id}");
        }
        for id in
            ["", ".", "..", "../x", "a/b", "/", "a\0b", "a\nb", "a b", "\u{1b}[2J", "é", &"x".repeat(MAX + 1)]
        {
            let error = check("container id", id).unwrap_err().to_string();
            assert!(error.starts_with("container id ") && !error.contains('\n'), "{error:?}");
        }
    }
}
