//! A container whose root is hostile: it reaches neither the control connection nor devices beyond its rules.

use crate::ctx::{Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use anyhow::{Context, Result, ensure};
use std::fs;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("hostile-control-port", control_port)
        .image(DEBIAN)
        .krun_only("there is no vsock to a shim"),
    Scenario::new("hostile-devices", devices).image(DEBIAN),
];

/// Nobody but PID 1, once, gets through to the shim, whatever port of whatever peer is tried. libkrun accepts what
/// dials the port it was given even when nobody listens behind it, so what counts is an answer, and that the host has
/// no socket left behind the port.
fn control_port(ctx: &Ctx) -> Result<Outcome> {
    let script = r#"
import socket, time
from multiprocessing.pool import ThreadPool
def answers(address):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as s:
        s.settimeout(5)
        try:
            s.connect(address)
            s.sendall(b"\1" + b"0" * 64)
            return s.recv(1) != b""
        except OSError:
            return False
ports = list(range(1016, 1048)) + [0, 1, 22, 80, 620, 2048, 5000, 8080, 10000, 29612, 65535, 2**31, 2**32 - 2]
tried = [(2, port) for port in ports] + [(cid, port) for cid in (0, 1, 3) for port in (620, 1024, 1025, 1026)]
# A port that nobody answers for takes until the guest's own timeout.
answered = ThreadPool(len(tried)).map(answers, tried)
print("tried", len(tried), "answered", [a for a, yes in zip(tried, answered) if yes], "end", flush=True)
time.sleep(1000)
"#;
    // CAP_NET_ADMIN and CAP_SYS_ADMIN must not help either.
    let flags = ["--cap-add", "CAP_NET_ADMIN", "--cap-add", "CAP_SYS_ADMIN"];
    let id = ctx.id("");
    let mut container = ctx.python(&flags, &id, script).timeout(220).spawn()?;
    container.wait_for_stdout("end")?;
    let sockets = fs::read_to_string("/proc/net/unix").context("read the host's unix sockets")?;
    // The pool's own are not the sandbox's.
    let of_pool = |line: &str| line.contains("/run/krun/waiting-") || line.ends_with("/run/krun/pool.sock");
    let ours: Vec<_> = sockets.lines().filter(|line| line.contains("/run/krun/") && !of_pool(line)).collect();
    ctx.kill(&id, "SIGKILL")?.ok()?;
    let output = container.finish()?;
    ensure!(output.stdout_text().contains("tried 57 answered [] end"), "a port answered: {output}");
    ensure!(ours.is_empty(), "the host still has sockets of the sandbox: {ours:?}");
    Ok(Outcome::Passed)
}

/// Device nodes can be made and not opened; the ports of the VM's console cannot be seen, and not opened either.
fn devices(ctx: &Ctx) -> Result<Outcome> {
    let script = r#"
import errno, glob, os, stat
print("visible", sorted(glob.glob("/dev/vport*") + glob.glob("/dev/hvc*") + glob.glob("/dev/kvm")))
def attempt(kind, major, minor):
    # The rootfs takes no devices of the guest.
    path = "/dev/node"
    os.mknod(path, kind | 0o600, os.makedev(major, minor))
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        return "OPENED"
    except OSError as e:
        return errno.errorcode[e.errno]
    finally:
        os.unlink(path)
majors = {}
for line in open("/proc/devices"):
    fields = line.split()
    if len(fields) == 2 and fields[0].isdigit():
        majors[fields[1]] = int(fields[0])
wanted = [("mem", stat.S_IFCHR, 1, 1), ("kmsg", stat.S_IFCHR, 1, 11), ("misc/kvm", stat.S_IFCHR, 10, 232),
          ("misc/fuse", stat.S_IFCHR, 10, 229), ("loop or disk", stat.S_IFBLK, 7, 0), ("disk", stat.S_IFBLK, 254, 0)]
for name in ("virtio-portsdev", "hvc", "ttyS", "ttyprintk", "virtio-ports"):
    if name in majors:
        wanted += [(name, stat.S_IFCHR, majors[name], minor) for minor in (0, 1, 2)]
for name, kind, major, minor in wanted:
    print("open", attempt(kind, major, minor), name, major, minor)
print("allowed", attempt(stat.S_IFCHR, 1, 3))
"#;
    let output = ctx.python(&[], &ctx.id(""), script).run()?.ok()?.has_line("visible []")?;
    // The rules are rules, not a failure of everything.
    let output = output.has_line("allowed OPENED")?;
    let text = output.stdout_text();
    let attempts: Vec<&str> = text.lines().filter(|l| l.starts_with("open ")).collect();
    ensure!(attempts.len() >= 6, "only {} attempts: {output}", attempts.len());
    for line in attempts {
        ensure!(line.starts_with("open EPERM "), "a device beyond the rules: {line}");
    }
    Ok(Outcome::Passed)
}
