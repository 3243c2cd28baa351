//! A container in a namespace that has an interface: its VM has a NIC configured like it.

use crate::crc32::{crc32, noise};
use crate::ctx::{Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use crate::undo;
use crate::veth::{self, BOX, TASK};
use crate::wait::until;
use anyhow::{Context, Result, ensure};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("network-tap", tap).image(DEBIAN),
    Scenario::new("network-localhost", localhost).long().image(DEBIAN),
    Scenario::new("network-cni", cni).long().image(DEBIAN),
];

/// Bytes each way.
const LARGE: usize = 8 << 20;
const TCP: u16 = 7000;
const UDP: u16 = 7001;
/// Patience with a connection in an emulated box.
const PATIENCE: Duration = Duration::from_secs(60);

/// On every address: takes bytes to their end, says their checksum, sends as many back; an echo for datagrams. First it
/// shows its network, and calls the box at every address that it is given.
const SERVER: &str = r#"
import socket, subprocess, sys, threading, zlib
for command in ("link show eth0", "address show eth0", "route", "-6 route", "neighbour"):
    print(subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=True).stdout)
for address in sys.argv[1:]:
    socket.create_connection((address, 7002), 60).sendall(b"hello from inside")
server = socket.create_server(("", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
echo.bind(("", 7001))
def datagrams():
    while True:
        data, sender = echo.recvfrom(65536)
        echo.sendto(data[::-1], sender)
threading.Thread(target=datagrams, daemon=True).start()
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    data = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    connection.sendall(zlib.crc32(data).to_bytes(4, "big") + data[::-1])
    connection.close()
"#;

fn tap(ctx: &Ctx) -> Result<Outcome> {
    veth::make()?;
    let before = veth::state()?;
    let calls = BOX.map(|address| TcpListener::bind((address, 7002)).context("listen in the box"));
    let namespace = format!("network:{}", veth::PATH);
    let id = ctx.id("");
    let args = [&["python3", "-c", SERVER][..], &BOX].concat();
    let mut server = ctx.run(&["--rm", "--with-ns", &namespace], DEBIAN, &id, &args).spawn()?;
    for listener in calls {
        let answer = called(&listener?).with_context(|| {
            format!("the container says {}", String::from_utf8_lossy(&server.stderr_now()))
        })?;
        ensure!(answer == "hello from inside", "a call from the container says {answer:?}");
    }
    server.wait_for_stdout("ready")?;
    let shown = String::from_utf8_lossy(&server.stdout_now()).into_owned();
    let mac = veth::ip("-n krun-scenario -brief link show eth0")?;
    let mac = mac.split_whitespace().nth(2).context("a hardware address")?;
    let expected = [
        mac,
        "mtu 9000",
        "10.77.0.2/24",
        "fd77::2/64",
        "default via 10.77.0.1 dev eth0",
        "default via fd77::1 dev eth0",
        "10.77.0.77 dev eth0 lladdr 02:00:00:00:00:77 PERMANENT",
    ];
    for text in expected {
        ensure!(shown.contains(text), "no {text:?} in the container's network: {shown}");
    }
    for address in TASK {
        let address: IpAddr = address.parse()?;
        exchange(address, TCP)?;
        // The last is larger than the largest frame.
        for size in [10, 8000, 20_000] {
            echo(address, UDP, size)?;
        }
        let ping =
            ["busybox", "ping", "-c", "1", "-W", "30", "-s", "8900", &address.to_string()].map(String::from);
        crate::command::Cmd::new(&ping).run()?.ok()?;
    }
    ctx.kill(&id, "SIGKILL")?.ok()?;
    server.finish()?;
    ensure!(veth::state()? == before, "the namespace had\n{before}\nand has\n{}", veth::state()?);
    Ok(Outcome::Passed)
}

/// Takes one call and reads all that it says.
pub fn called(listener: &TcpListener) -> Result<String> {
    listener.set_nonblocking(true)?;
    let mut connection = until("a call from the container", PATIENCE, || match listener.accept() {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
        accepted => Ok(Some(accepted?.0)),
    })?;
    connection.set_nonblocking(false)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).context("read what the container says")?;
    Ok(answer)
}

/// Sends bytes, reads their checksum and the same bytes backwards.
pub fn exchange(address: IpAddr, port: u16) -> Result<()> {
    let data = noise(LARGE);
    let mut connection = TcpStream::connect_timeout(&(address, port).into(), PATIENCE)
        .with_context(|| format!("connect to {address}"))?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(&data)?;
    connection.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).context("read the answer")?;
    let (sum, back) = answer.split_at_checked(4).context("an answer of less than four bytes")?;
    ensure!(sum == crc32(&data).to_be_bytes(), "{address} got other bytes than were sent");
    ensure!(back.iter().rev().eq(&data), "{address} sent other bytes than it got: {} of {LARGE}", back.len());
    Ok(())
}

/// One datagram there and, backwards, back.
pub fn echo(address: IpAddr, port: u16, size: usize) -> Result<()> {
    let any: IpAddr = if address.is_ipv4() { "0.0.0.0".parse()? } else { "::".parse()? };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let data = noise(size);
    socket.send_to(&data, (address, port))?;
    let mut answer = vec![0; 1 << 16];
    let length = socket.recv(&mut answer).with_context(|| format!("{size} bytes from {address}"))?;
    ensure!(answer[..length].iter().rev().eq(&data), "{address} sent another datagram than it got");
    Ok(())
}

/// What dials localhost in the namespace, as the kubelet's port-forward does, reaches the container; a port where nobody
/// listens does not answer.
fn localhost(ctx: &Ctx) -> Result<Outcome> {
    veth::make()?;
    let namespace = format!("network:{}", veth::PATH);
    let id = ctx.id("");
    let mut server =
        ctx.run(&["--rm", "--with-ns", &namespace], DEBIAN, &id, &["python3", "-c", SERVER]).spawn()?;
    server.wait_for_stdout("ready")?;
    let client = "import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 60) as c:
    c.sendall(b'forward'); c.shutdown(socket.SHUT_WR)
    print(b''.join(iter(lambda: c.recv(65536), b''))[4:].decode())";
    for address in ["127.0.0.1", "::1"] {
        veth::inside(&["python3", "-c", client, address, "7000"]).run()?.ok()?.printed("drawrof\n")?;
        let refused = veth::inside(&["python3", "-c", client, address, "7009"]).run()?;
        ensure!(refused.status != 0, "nobody listens there, and it answers: {refused}");
    }
    ctx.kill(&id, "SIGKILL")?.ok()?;
    server.finish()?;
    Ok(Outcome::Passed)
}

const CNI: &str = r#"{"cniVersion": "1.0.0", "name": "krun-scenario", "plugins": [{"type": "bridge", "bridge": "kcni0",
  "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.78.0.0/24"}]],
  "routes": [{"dst": "0.0.0.0/0"}]}}]}"#;
const CNI_FILE: &str = "/etc/cni/net.d/10-krun-scenario.conflist";

/// `ctr run --cni` sets up the network between Create and Start: a VM that boots meanwhile joins it, and one with `network=tap` waits
/// for it.
fn cni(ctx: &Ctx) -> Result<Outcome> {
    undo::remember(&["rm", CNI_FILE])?;
    std::fs::write(CNI_FILE, CNI).context("write a CNI configuration")?;
    undo::remember(&["sh", "-c", "ip link delete kcni0; rm -rf /var/lib/cni/networks/krun-scenario"])?;
    let tap = if ctx.krun() { &["--annotation", "io.containerd.krun.network=tap"][..] } else { &[] };
    let script = "import os, socket, subprocess
print(subprocess.run(['ip', '-o', '-4', 'address', 'show', 'eth0'], capture_output=True, text=True).stdout.split()[3], flush=True)
print(sorted(os.listdir('/sys/class/net')), open('/sys/class/net/eth0/address').read().strip(), flush=True)
server = socket.create_server(('', 7015)); print('ready', flush=True)
connection, _ = server.accept()
with socket.create_connection(('10.78.0.1', 7016), 60) as c: c.sendall(b'from inside')
connection.sendall(b'from outside'); connection.close()";
    for (name, flags) in [("auto", &[][..]), ("tap", tap)] {
        let out = TcpListener::bind("0.0.0.0:7016").context("listen in the box")?;
        let id = ctx.id(name);
        let mut server = ctx.python(&[&["--cni"], flags].concat(), &id, script).spawn()?;
        server.wait_for_stdout("ready")?;
        let shown = String::from_utf8_lossy(&server.stdout_now()).into_owned();
        let address = shown.lines().next().and_then(|line| line.split('/').next()).unwrap_or_default();
        ensure!(address.starts_with("10.78.0."), "no address of the bridge's network: {shown}");
        let pid = ctx.task(&id)?.context("no task")?.pid.to_string();
        let ip = ["nsenter", "--net", "--target", &pid, "ip", "-brief", "link", "show", "eth0"];
        let link = crate::command::Cmd::new(&ip).run()?.ok()?.stdout_text();
        let mac = link.split_whitespace().nth(2).context("a hardware address")?;
        ensure!(shown.contains(&format!("'eth0', 'lo'] {mac}")), "no eth0 with {mac}: {shown}");
        let mut connection = TcpStream::connect((address, 7015)).context("call the container")?;
        ensure!(called(&out)? == "from inside", "the container does not reach the box");
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        ensure!(answer == "from outside", "the container says {answer:?}");
        server.finish()?.ok()?;
        println!(
            "tried: --cni with network={name}: {address}, {mac}, reached from outside, and reaches the box"
        );
    }
    if ctx.krun() {
        let nothing = ctx.sh(tap, &ctx.id("none"), "true").run()?;
        nothing.refused(&["network = tap", "no configured interface"])?;
        ctx.sh(&[tap, &["--net-host"]].concat(), &ctx.id("host"), "true")
            .run()?
            .refused(&["tsi works there"])?;
    }
    Ok(Outcome::Passed)
}
