//! Which system call a vmm was killed for. Only the kernel knows: its seccomp filter kills without asking anybody, and the
//! audit subsystem writes a record of it to the kernel's log, or to auditd where that runs.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::Pid,
};
use syscalls::Sysno;

/// How long to wait for the record: a thread of the kernel writes it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Maximum size of a record of /dev/kmsg. Source: `CONSOLE_EXT_LOG_MAX` of linux/console.h.
const MAX_RECORD: usize = 8192;

/// Maximum number of records that are read: more than the kernel's log holds.
const MAX_RECORDS: usize = 100_000;

/// `AUDIT_SECCOMP` of linux/audit.h, as the kernel prints it.
const AUDIT_SECCOMP: &str = "type=1326 ";

/// The system call that `pid`, a process that SIGSYS has killed, was killed for. Blocks for up to [`PATIENCE`].
pub fn call_of(pid: Pid) -> String {
    newest_record(pid).map(name).unwrap_or_else(|| "the host's audit log names it".to_owned())
}

fn newest_record(pid: Pid) -> Option<usize> {
    let mut log = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = vec![0; MAX_RECORD];
    let mut newest = None;
    for _ in 0..MAX_RECORDS {
        match log.read(&mut buffer) {
            Ok(length @ 1..) => {
                newest = parse(&String::from_utf8_lossy(&buffer[..length]), pid).or(newest);
            }
            // The end of the log.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if newest.is_some() || left.is_zero() {
                    return newest;
                }
                let timeout = PollTimeout::try_from(left).ok()?;
                poll(&mut [PollFd::new(log.as_fd(), PollFlags::POLLIN)], timeout).ok()?;
            }
            // The record was overwritten before it was read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            _ => break,
        }
    }
    newest
}

/// The number of the call in a record about `pid`. Nothing that a process chooses can look like it: the kernel writes a
/// name with spaces in hexadecimal, and after the pid.
fn parse(record: &str, pid: Pid) -> Option<usize> {
    let fields = record.split_once(AUDIT_SECCOMP)?.1;
    let value = |name: &str| fields.split(' ').find_map(|field| field.strip_prefix(name));
    if value("pid=")?.parse() != Ok(pid.as_raw()) {
        return None;
    }
    value("syscall=")?.parse().ok()
}

fn name(number: usize) -> String {
    match Sysno::new(number) {
        Some(call) => format!("{call}, number {number}"),
        None => format!("number {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_of_a_record_is_named() {
        let record = "5,1201,90210,-;audit: type=1326 audit(1795658750.253:7): auid=4294967295 uid=0 gid=0 \
                      ses=4294967295 pid=812 comm=\"fc_vcpu 0\" exe=\"/usr/bin/krun-vmm\" sig=31 arch=c000003e \
                      syscall=165 compat=0 ip=0x7f9 code=0x80000000\n";
        assert_eq!(parse(record, Pid::from_raw(812)).map(name).as_deref(), Some("mount, number 165"));
        assert_eq!(parse(record, Pid::from_raw(81)), None);
        assert_eq!(parse(&record.replace("1326", "1327"), Pid::from_raw(812)), None);
        assert_eq!(name(99_999), "number 99999");
    }
}
