//! PID 1's log goes to the host over a stream, as lines. Logging never blocks: when the host does not read, lines are
//! dropped, and a later line says how many.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use guest_protocol::mux::Writer;
use log::{LevelFilter, Log, Metadata, Record};
use tokio::sync::mpsc;

/// Lines that may wait for the host.
const QUEUE: usize = 256;

/// Longest line, in characters. Longer ones are cut.
const MAX_LINE: usize = 1024;

static LINES: OnceLock<mpsc::Sender<String>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

struct ToHost;

/// Starts logging to `writer`.
pub fn start(mut writer: Writer, debug: bool) {
    let (lines, mut queue) = mpsc::channel::<String>(QUEUE);
    if LINES.set(lines).is_err() || log::set_logger(&ToHost).is_err() {
        return;
    }
    log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
    tokio::spawn(async move {
        while let Some(line) = queue.recv().await {
            let dropped = DROPPED.swap(0, Ordering::Relaxed);
            if dropped > 0
                && writer.send(format!("guest-init: {dropped} lines dropped\n").as_bytes()).await.is_err()
            {
                return;
            }
            if writer.send(line.as_bytes()).await.is_err() {
                return;
            }
        }
    });
}

/// Sends one line of `source`.
pub fn line(source: &str, text: &str) {
    let Some(lines) = LINES.get() else { return };
    let text: String =
        text.trim_end().chars().map(|c| if c == '\n' { ' ' } else { c }).take(MAX_LINE).collect();
    if lines.try_send(format!("{source}: {text}\n")).is_err() {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

impl Log for ToHost {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // To ttrpc, a client that stops waiting is an error.
        let ours = !metadata.target().starts_with("ttrpc");
        metadata.level() <= log::max_level() && (ours || log::max_level() >= LevelFilter::Debug)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            line("guest-init", &format!("{}: {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}
