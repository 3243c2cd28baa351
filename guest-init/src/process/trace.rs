//! Why libcontainer failed. Its error texts stop at "failed to prepare rootfs"; the path and the
//! errno are in what it logs, in any of its processes. So those lines are kept in a file that
//! all of them inherit, and looked up when the whole has failed. Only used in forks.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::sys::memfd::{MFdFlags, memfd_create};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use super::fault::errno_text;

/// Marks the line that says it all.
const DECISIVE: char = '!';

struct Notes {
    file: File,
    cwd: PathBuf,
}

static NOTES: OnceLock<Notes> = OnceLock::new();

/// Starts keeping lines. `cwd` is the process's working directory, for the one failure that
/// libcontainer does not name the path of.
pub fn start(cwd: PathBuf) -> nix::Result<()> {
    let file: OwnedFd = memfd_create("krun-notes", MFdFlags::MFD_CLOEXEC)?;
    let _ = NOTES.set(Notes { file: file.into(), cwd });
    let _ = tracing::subscriber::set_global_default(Keeper);
    Ok(())
}

/// Keeps the one line that says why: it stands for all others.
pub fn decisive(why: &str) {
    keep(&format!("{DECISIVE}{why}"));
}

fn keep(line: &str) {
    if let Some(notes) = NOTES.get() {
        let _ = (&notes.file).write_all(format!("{}\n", line.replace('\n', " ")).as_bytes());
    }
}

/// The reason for the failure `chain`: the decisive line if there is one, else the chain and the
/// first thing that went wrong below it.
pub fn reason(chain: &str) -> String {
    let mut text = String::new();
    if let Some(notes) = NOTES.get() {
        let mut file = &notes.file;
        let _ = file.rewind();
        let _ = file.read_to_string(&mut text);
    }
    choose(&text, chain)
}

fn choose(notes: &str, chain: &str) -> String {
    if let Some(line) = notes.lines().find_map(|line| line.strip_prefix(DECISIVE)) {
        return line.to_owned();
    }
    let Some(first) = notes.lines().next() else { return chain.to_owned() };
    // A mount's line names the mount, and only those after it the errno.
    match errno_in(notes).filter(|errno| !first.contains(errno)) {
        Some(errno) => format!("{chain}: {first}: {errno}"),
        None => format!("{chain}: {first}"),
    }
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
        // libcontainer has just failed to enter the working directory: ask for the error again.
        if line.message == "failed to chdir"
            && let Some(notes) = NOTES.get()
            && let Err(err) = std::env::set_current_dir(&notes.cwd)
        {
            let (cwd, why) = (notes.cwd.display(), errno_text(&err));
            decisive(&format!("chdir to cwd ({:?}) set in config.json failed: {why}", cwd.to_string()));
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
    use super::*;

    #[test]
    fn the_decisive_line_wins() {
        assert_eq!(choose("a\n!exec: no\nb\n", "chain"), "exec: no");
        assert_eq!(choose("deep path=/x\nshallow\n", "chain"), "chain: deep path=/x");
        assert_eq!(
            choose("mount /x: syscall\nouter err=Nix(ENODEV)\n", "chain"),
            "chain: mount /x: syscall: ENODEV"
        );
        assert_eq!(choose("", "chain"), "chain");
    }
}
