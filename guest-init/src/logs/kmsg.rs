//! Forwards the guest kernel's log to the host: warnings and worse from now on, or with debug everything since boot. Never
//! blocks.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use tokio::io::Interest;

use crate::io::poll;
use crate::logs::logger;

/// syslog's "warning", the least severe that is always forwarded.
const WARNING: u8 = 4;

/// One record at most.
const RECORD: usize = 8192;

/// Starts forwarding on a task of the current runtime.
pub fn start(debug: bool) -> Result<()> {
    let path = "/dev/kmsg";
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .with_context(|| format!("open {path}"))?;
    if !debug {
        file.seek(SeekFrom::End(0)).with_context(|| format!("seek in {path}"))?;
    }
    let least = if debug { u8::MAX } else { WARNING };
    let file = poll::register(file, Interest::READABLE).with_context(|| format!("poll {path}"))?;
    tokio::spawn(async move {
        let mut buf = vec![0; RECORD];
        loop {
            let Ok(mut ready) = file.readable().await else { return };
            match ready.try_io(|file| file.get_ref().read(&mut buf)) {
                Ok(Ok(0)) => return,
                Ok(Ok(n)) => {
                    if let Some(text) = parse(&buf[..n], least) {
                        logger::line("kernel", &text);
                    }
                }
                // The kernel has overwritten the record: go on with the next.
                Ok(Err(err)) if err.kind() == ErrorKind::BrokenPipe => {}
                Ok(Err(_)) => return,
                Err(_would_block) => {}
            }
        }
    });
    Ok(())
}

/// The text of a record `priority,sequence,time,flags;text`, if it is severe enough and not PID 1's own, which is in the
/// log already.
fn parse(record: &[u8], least: u8) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (head, text) = record.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let micros: u64 = fields.nth(1)?.parse().ok()?;
    let text = text.lines().next()?;
    (priority as u8 & 7 <= least && !text.starts_with("guest-init:"))
        .then(|| format!("[{:5}.{:06}] {text}", micros / 1_000_000, micros % 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_filtered_by_severity() {
        let text = parse(b"4,1,2000003,-;oops\n SUBSYSTEM=x\n", WARNING);
        assert_eq!(text.as_deref(), Some("[    2.000003] oops"));
        assert_eq!(parse(b"6,1,2,-;hello\n", WARNING), None);
        assert!(parse(b"6,1,2,-;hello\n", u8::MAX).unwrap().ends_with(" hello"));
        assert!(parse(b"12,1,2,-;from user space\n", WARNING).is_some());
        assert_eq!(parse(b"2,1,2,-;guest-init: x\n", WARNING), None);
        assert_eq!(parse(b"nonsense", WARNING), None);
    }
}
