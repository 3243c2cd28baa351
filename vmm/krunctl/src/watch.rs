//! Waits until something in a directory changes, or somebody says that nothing more will.

use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::AsFd,
    path::Path,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};

/// Watches a directory.
pub struct Watch {
    events: Inotify,
    end: PipeReader,
}

/// Ends the waits when it is dropped.
pub struct End(#[expect(dead_code, reason = "held for its drop")] PipeWriter);

/// What a wait heard.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A file was written, or came or went.
    Change,
    /// Nothing more will happen.
    End,
}

impl Watch {
    /// Watches what is in `directory` from now on.
    ///
    /// # Errors
    /// The kernel's, as when this user has no watch left.
    pub fn of(directory: &Path) -> Result<(Watch, End)> {
        let failed = || format!("watching {}", directory.display());
        let events = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).with_context(failed)?;
        let changes = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        events.add_watch(directory, changes).with_context(failed)?;
        let (end, ends) = io::pipe().with_context(failed)?;
        Ok((Watch { events, end }, End(ends)))
    }

    /// Waits for what happens next. The end is heard again and again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&self) -> Result<Heard> {
        let mut ready = [
            PollFd::new(self.end.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.events.as_fd(), PollFlags::POLLIN),
        ];
        while let Err(errno) = poll(&mut ready, PollTimeout::NONE) {
            if errno != Errno::EINTR {
                return Err(errno).context("waiting for changes");
            }
        }
        if ready[0].any() == Some(true) {
            return Ok(Heard::End);
        }
        // Which files does not matter: whoever waits looks at them all.
        match self.events.read_events() {
            Err(errno) if errno != Errno::EAGAIN => Err(errno).context("reading changes"),
            _ => Ok(Heard::Change),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_and_the_end_are_heard() {
        let dir = tempfile::tempdir().unwrap();
        let (watch, end) = Watch::of(dir.path()).unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        assert_eq!(watch.wait().unwrap(), Heard::Change);
        drop(end);
        for _ in 0..2 {
            assert_eq!(watch.wait().unwrap(), Heard::End);
        }
    }
}
