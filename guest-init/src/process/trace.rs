//! Why libcontainer failed. Its errors stop at "failed to prepare rootfs"; the path and the errno are in its log, which
//! any of its processes writes. So a file that all of them inherit keeps the lines of the log, and a failure is looked up
//! there. For forks only.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::sys::memfd::{MFdFlags, memfd_create};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use crate::rpc::fault::{Refusal, errno_text};

/// Marks the line that says it all: a [`Refusal`] in JSON.
const DECISIVE: char = '!';

struct Notes {
    file: File,
    cwd: PathBuf,
}

static NOTES: OnceLock<Notes> = OnceLock::new();

/// Starts keeping lines. `cwd` is the process's working directory, which libcontainer does not name when it cannot enter
/// it.
pub fn start(cwd: PathBuf) -> nix::Result<()> {
    let file: OwnedFd = memfd_create("krun-notes", MFdFlags::MFD_CLOEXEC)?;
    let _ = NOTES.set(Notes { file: file.into(), cwd });
    let _ = tracing::subscriber::set_global_default(Keeper);
    Ok(())
}

/// Keeps the one line that says why: it stands for all others.
pub fn decisive(why: &Refusal) {
    if let Ok(why) = serde_json::to_string(why) {
        keep(&format!("{DECISIVE}{why}"));
    }
}

fn keep(line: &str) {
    if let Some(notes) = NOTES.get() {
        let _ = (&notes.file).write_all(format!("{}\n", line.replace('\n', " ")).as_bytes());
    }
}

/// Why libcontainer failed with the errors `chain`: the decisive line if there is one, else the chain and the first line
/// that was kept.
pub fn refusal(chain: &str) -> Refusal {
    let mut text = String::new();
    if let Some(notes) = NOTES.get() {
        let mut file = &notes.file;
        let _ = file.rewind();
        let _ = file.read_to_string(&mut text);
    }
    choose(&text, chain)
}

fn choose(notes: &str, chain: &str) -> Refusal {
    let mut decisive = notes.lines().filter_map(|line| line.strip_prefix(DECISIVE));
    if let Some(refusal) = decisive.find_map(|line| serde_json::from_str(line).ok()) {
        return refusal;
    }
    let Some(first) = notes.lines().next() else { return Refusal::other(chain) };
    // The first line names a mount that failed; only a later one names the errno.
    Refusal::other(match errno_in(notes).filter(|errno| !first.contains(errno)) {
        Some(errno) => format!("{chain}: {first}: {errno}"),
        None => format!("{chain}: {first}"),
    })
}

/// The first word of `text` that looks like ENOENT.
fn errno_in(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).find(|word| {
        word.len() > 3
            && word.starts_with('E')
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    })
}

struct Keeper;

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        // libcontainer has just failed to enter the working directory: try again for the error.
        if line.message == "failed to chdir"
            && let Some(notes) = NOTES.get()
            && let Err(err) = std::env::set_current_dir(&notes.cwd)
        {
            let (cwd, why) = (notes.cwd.display(), errno_text(&err));
            let text = format!("chdir to cwd ({:?}) set in config.json failed: {why}", cwd.to_string());
            decisive(&Refusal::of_directory(&err, text));
        }
        keep(&format!("{}{}", line.message, line.fields));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use guest_protocol::failure::Reason;

    use super::*;

    #[test]
    fn the_decisive_line_wins() {
        let why = Refusal::new(Reason::COMMAND_NOT_FOUND, "exec: \"a\nb\": no");
        let notes = format!("a\n!{}\nb\n", serde_json::to_string(&why).unwrap());
        assert_eq!(choose(&notes, "chain"), why);
        for (notes, text) in [
            ("deep path=/x\nshallow\n", "chain: deep path=/x"),
            ("mount /x: syscall\nouter err=Nix(ENODEV)\n", "chain: mount /x: syscall: ENODEV"),
            ("", "chain"),
        ] {
            assert_eq!(choose(notes, "chain"), Refusal::other(text));
        }
    }
}
