//! What a sandbox uses of the host, from /proc. The kernel answers each of these without waiting for the process.

use std::{fs, sync::LazyLock, time::Duration};

use nix::unistd::{SysconfVar, sysconf};
use shim::status::{Process, Stat, Status, is_tap};

/// What a sandbox uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Its VM; none before its launch and after its end.
    pub vmm: Option<OfProcess>,
    /// Its shim.
    pub shim: Option<OfProcess>,
    /// Its NICs, if it has any.
    pub network: Option<Traffic>,
}

/// What a process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OfProcess {
    /// Memory that it has touched, in bytes. What it shares with others counts in full.
    pub resident: u64,
    /// CPU time, user's and kernel's.
    pub cpu: Duration,
    /// Bytes that it had the disks read.
    pub read: u64,
    /// Bytes that it had the disks write.
    pub written: u64,
}

/// What went through NICs, as the guest sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that the guest received.
    pub received_bytes: u64,
    /// Packets that it received.
    pub received_packets: u64,
    /// Bytes that it sent.
    pub sent_bytes: u64,
    /// Packets that it sent.
    pub sent_packets: u64,
}

impl Usage {
    /// What a sandbox uses now.
    pub fn of(status: &Status) -> Usage {
        Usage {
            vmm: status.vmm.and_then(OfProcess::of),
            shim: OfProcess::of(status.shim),
            // Without a NIC, those in its namespace are another VM's.
            network: status.anchor.filter(|_| status.network == "tap").and_then(traffic),
        }
    }
}

impl OfProcess {
    fn of(process: Process) -> Option<OfProcess> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", process.pid)).ok();
        let used = OfProcess::parse(&read("statm")?, Stat::of(process.pid)?.cpu, &read("io")?)?;
        // The pid may have become another's before it was asked.
        process.is_there().then_some(used)
    }

    /// Sources: proc_pid_statm(5), the second field in pages; proc_pid_io(5).
    fn parse(statm: &str, ticks: u64, io: &str) -> Option<OfProcess> {
        let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let bytes = |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Some(OfProcess {
            resident: pages * *PAGE,
            cpu: Duration::from_millis(ticks * 1000 / *TICKS),
            read: bytes("read_bytes:")?,
            written: bytes("write_bytes:")?,
        })
    }
}

static PAGE: LazyLock<u64> = LazyLock::new(|| system(SysconfVar::PAGE_SIZE, 4096));
static TICKS: LazyLock<u64> = LazyLock::new(|| system(SysconfVar::CLK_TCK, 100));

fn system(variable: SysconfVar, usual: u64) -> u64 {
    sysconf(variable).ok().flatten().and_then(|value| u64::try_from(value).ok()).unwrap_or(usual)
}

/// What went through our taps in the network namespace of a process.
fn traffic(anchor: Process) -> Option<Traffic> {
    let devices = fs::read_to_string(format!("/proc/{}/net/dev", anchor.pid)).ok()?;
    anchor.is_there().then(|| sum(&devices)).flatten()
}

/// Source: proc_pid_net(5): after the name eight numbers of what was received, bytes and packets first, then eight of what was sent. What
/// a tap receives, its guest has sent.
fn sum(devices: &str) -> Option<Traffic> {
    let taps = devices.lines().filter_map(|line| {
        let (name, numbers) = line.trim().split_once(':')?;
        is_tap(name)
            .then(|| numbers.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect())
    });
    let add = |sum: Option<Traffic>, numbers: Vec<u64>| {
        let [sent_bytes, sent_packets, _, _, _, _, _, _, received_bytes, received_packets, ..] = numbers[..]
        else {
            return sum;
        };
        let sum = sum.unwrap_or_default();
        Some(Traffic {
            received_bytes: sum.received_bytes + received_bytes,
            received_packets: sum.received_packets + received_packets,
            sent_bytes: sum.sent_bytes + sent_bytes,
            sent_packets: sum.sent_packets + sent_packets,
        })
    };
    taps.fold(None, add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processs_files_have_what_it_uses() {
        let io = "rchar: 9\nwchar: 9\nread_bytes: 4096\nwrite_bytes: 8192\n";
        let used = OfProcess::parse("900 25 3 1 0 2 0", 200, io).unwrap();
        assert_eq!(used.resident, 25 * *PAGE);
        assert_eq!(used.cpu, Duration::from_millis(200 * 1000 / *TICKS));
        assert_eq!((used.read, used.written), (4096, 8192));
        assert_eq!(OfProcess::parse("900", 200, io), None);
    }

    #[test]
    fn only_our_taps_count_and_from_the_guests_side() {
        let head = "Inter-|   Receive |  Transmit\n face |bytes    packets errs|bytes packets\n";
        let lines = [
            "    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0",
            "  eth0: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0",
            " krunx: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0",
            " krun2: 10 1 0 0 0 0 0 0 20 2 0 0 0 0 0 0",
            " krun3:100 3 0 0 0 0 0 0 200 4 0 0 0 0 0 0",
        ];
        let all = sum(&format!("{head}{}\n", lines.join("\n"))).unwrap();
        let expected = Traffic { sent_bytes: 110, sent_packets: 4, received_bytes: 220, received_packets: 6 };
        assert_eq!(all, expected);
        assert_eq!(sum(&format!("{head}{}", lines[0])), None);
    }

    #[test]
    fn we_use_something_ourselves() {
        let us = Process::of(std::process::id()).unwrap();
        let used = OfProcess::of(us).unwrap();
        assert!(used.resident > 1 << 20);
        assert_eq!(OfProcess::of(Process { started: us.started + 1, ..us }), None);
    }
}
