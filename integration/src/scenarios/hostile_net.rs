//! A hostile container and the box's sockets: through TSI the guest's sockets become the vmm's, so what the vmm can
//! reach matters. It must reach no unix socket, abstract name or loopback service of the box, neither as a well-behaved
//! guest asks for them nor with forged requests.

use crate::ctx::{Ctx, DEBIAN};
use crate::frames::Frames;
use crate::scenario::{Outcome, Scenario};
use crate::veth::{self, BOX, TASK};
use anyhow::{Context, Result, ensure};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("hostile-host-sockets", host_sockets).image(DEBIAN),
    Scenario::new("hostile-spoofing", spoofing).image(DEBIAN).krun_only("runc leaves that to CNI"),
    Scenario::new("hostile-forged-tsi", forged_tsi).long().image(DEBIAN).krun_only("there is no TSI"),
];

const TSI: [&str; 2] = ["--annotation", "io.containerd.krun.network=tsi"];
const ABSTRACT: &str = "krun-scenarios-target";

fn host_sockets(ctx: &Ctx) -> Result<Outcome> {
    let path = ctx.work("target.sock");
    let _by_path = UnixListener::bind(&path).context("listen on a path")?;
    let address = SocketAddr::from_abstract_name(ABSTRACT)?;
    let _by_name = UnixListener::bind_addr(&address).context("listen on an abstract name")?;
    let by_port = TcpListener::bind("127.0.0.1:0").context("listen on loopback")?;
    let port = by_port.local_addr()?.port();
    // They are there: the box itself reaches each of them.
    UnixStream::connect(&path).context("the path")?;
    UnixStream::connect_addr(&address).context("the abstract name")?;
    TcpStream::connect(("127.0.0.1", port)).context("the port")?;

    let script = format!(
        r#"
import errno, os, socket
PATH, PORT = {path:?}, {port}
os.makedirs(os.path.dirname(PATH), exist_ok=True)
os.makedirs("/run/containerd", exist_ok=True)
def attempt(title, family, address):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.settimeout(5)
            s.connect(address)
            print("REACHED", title)
    except OSError as e:
        print("refused", title, errno.errorcode.get(e.errno, e))
attempt("path", socket.AF_UNIX, PATH)
attempt("containerd", socket.AF_UNIX, "/run/containerd/containerd.sock")
attempt("abstract", socket.AF_UNIX, "\0{ABSTRACT}")
attempt("loopback", socket.AF_INET, ("127.0.0.1", PORT))
attempt("loopback by IPv6", socket.AF_INET6, ("::ffff:127.0.0.1", PORT))
attempt("any", socket.AF_INET, ("0.0.0.0", PORT))
# A service of the container's own is reachable: refusals above are not a network that does nothing.
server = socket.create_server(("127.0.0.1", 4711))
client = socket.create_connection(("127.0.0.1", 4711), 5)
peer, _ = server.accept()
client.sendall(b"own"); print("own service says", peer.recv(3).decode())
"#,
        path = path.display().to_string()
    );
    // With sockets of the guest's own, and with sockets that are the vmm's.
    let modes: &[&[&str]] = if ctx.krun() { &[&[], &TSI] } else { &[&[]] };
    for (number, flags) in modes.iter().enumerate() {
        let output = ctx.python(flags, &ctx.id(&number.to_string()), &script).run()?.ok()?;
        let text = output.has_line("own service says own")?.stdout_text();
        ensure!(!text.contains("REACHED"), "a socket of the box answered: {text}");
        ensure!(text.matches("refused ").count() == 6, "six attempts were to be made: {text}");
        println!("tried: {flags:?}: {}", text.trim().replace('\n', ", "));
    }
    Ok(Outcome::Passed)
}

/// Frames from addresses that the container was not given. The box hears its own ones only.
fn spoofing(ctx: &Ctx) -> Result<Outcome> {
    veth::make()?;
    let script = format!(
        r#"
import socket, struct
def mac(text): return bytes.fromhex(text.replace(":", ""))
def ip(text): return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
OWN, OTHER, ALL = mac(open("/sys/class/net/eth0/address").read().strip()), mac("02:00:00:00:00:99"), bytes([255] * 6)
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def send(title, source, protocol, payload):
    # The box reads the title behind the payload.
    s.send(ALL + source + struct.pack("!H", protocol) + payload + ("<%s>" % title).encode())
    print("sent", title)
def ipv4(source):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 120, 1, 0, 64, 253, 0, ip(source), ip("{box4}"))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:]
def ipv6(source, header=59, payload=b""):
    return struct.pack("!IHBB", 0x60000000, 100, header, 255) + ip(source) + ip("ff02::1") + payload
def arp(sender_mac, sender):
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + sender_mac + ip(sender) + ALL + ip("{box4}")
def icmp(kind, target): return struct.pack("!BBHI", kind, 0, 0, 0) + ip(target)
send("own IPv4", OWN, 0x0800, ipv4("{own4}"))
send("own IPv6", OWN, 0x86dd, ipv6("{own6}"))
send("own ARP", OWN, 0x0806, arp(OWN, "{own4}"))
send("own advertisement", OWN, 0x86dd, ipv6("{own6}", 58, icmp(136, "{own6}")))
send("BAD IPv4 source", OWN, 0x0800, ipv4("{box4}"))
send("BAD IPv4 hardware", OTHER, 0x0800, ipv4("{own4}"))
send("BAD IPv6 source", OWN, 0x86dd, ipv6("{box6}"))
send("BAD IPv6 hardware", OTHER, 0x86dd, ipv6("{own6}"))
send("BAD link-local source", OWN, 0x86dd, ipv6("fe80::1"))
send("BAD ARP sender", OWN, 0x0806, arp(OWN, "{box4}"))
send("BAD ARP hardware", OWN, 0x0806, arp(OTHER, "{own4}"))
send("BAD ARP frame", OTHER, 0x0806, arp(OWN, "{own4}"))
send("BAD advertisement", OWN, 0x86dd, ipv6("{own6}", 58, icmp(136, "{box6}")))
send("BAD router", OWN, 0x86dd, ipv6("{own6}", 58, icmp(134, "::")))
send("BAD redirect", OWN, 0x86dd, ipv6("{own6}", 58, icmp(137, "{own6}")))
for header in (0, 43, 60):
    hidden = struct.pack("!BBHI", 58, 0, 0x0104, 0) + icmp(136, "{box6}")
    send("BAD hidden %d" % header, OWN, 0x86dd, ipv6("{own6}", header, hidden))
send("BAD VLAN", OWN, 0x8100, struct.pack("!HH", 7, 0x0800) + ipv4("{own4}"))
send("BAD VLAN of a provider", OWN, 0x88a8, struct.pack("!HH", 7, 0x0800) + ipv4("{own4}"))
send("BAD protocol", OWN, 0x88b5, bytes(60))
send("BAD length", OWN, 60, bytes(60))
send("own last", OWN, 0x0800, ipv4("{own4}"))
"#,
        box4 = BOX[0],
        box6 = BOX[1],
        own4 = TASK[0],
        own6 = TASK[1],
    );
    for (anti_spoofing, bad) in [(true, 0), (false, 18)] {
        let frames = Frames::capture()?;
        let config = ctx.work("config.toml");
        std::fs::write(&config, format!("anti_spoofing = {anti_spoofing}\n")).context("configure")?;
        let config = config.display().to_string();
        let flags = [&veth::flags(Some("tap"))[..], &["--runtime-config-path".to_owned(), config]].concat();
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let output = ctx.python(&flags, &ctx.id(&anti_spoofing.to_string()), &script).run()?.ok()?;
        ensure!(output.stdout_text().matches("sent ").count() == 23, "23 frames were to be sent: {output}");
        let titles = frames.titles("own last")?;
        println!("anti_spoofing = {anti_spoofing}: the box hears {titles:?}");
        let count = |kind: &str| titles.iter().filter(|title| title.starts_with(kind)).count();
        ensure!(count("own ") == 5, "the container's own frames are lost: {titles:?}");
        ensure!(count("BAD ") == bad, "{bad} others were to come: {titles:?}");
    }
    Ok(Outcome::Passed)
}

/// Requests to libkrun's TSI that no guest kernel would send: unix addresses for internet sockets. libkrun removes the
/// path that it is told to listen on, and connects to the path that it is told to connect to.
fn forged_tsi(ctx: &Ctx) -> Result<Outcome> {
    let path = ctx.work("target.sock");
    let listener = UnixListener::bind(&path).context("listen on a path")?;
    listener.set_nonblocking(true)?;
    let precious = ctx.work("precious");
    std::fs::write(&precious, "keep me").context("write a file")?;

    // Numbers and layouts: libkrun 1.19.7, krun-devices, virtio/vsock/mod.rs (defs) and packet.rs.
    let script = format!(
        r#"
import socket, struct
SOCKET, FILE = {socket:?}, {file:?}
CREATE, CONNECT, LISTEN, RELEASE = 1024, 1025, 1029, 1031
UNIX, INET, STREAM, DGRAM = 1, 2, 1, 2
try:
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_DGRAM)
    s.bind((socket.VMADDR_CID_ANY, 7000))
except OSError as e:
    print("no forging:", e); raise SystemExit
s.settimeout(2)
def tell(port, data):
    try:
        s.sendto(data, (2, port))
    except OSError as e:
        print("not sent", port, e)
def answer():
    try:
        return struct.unpack("<i", s.recv(4096)[:4])[0]
    except OSError as e:
        return str(e)
def unix(path):
    return struct.pack("<H", UNIX) + path.encode() + b"\0"
peer = 9000
for family in (INET, UNIX):
    for kind in (STREAM, DGRAM):
        for title, path in (("socket", SOCKET), ("file", FILE)):
            peer += 1
            tell(CREATE, struct.pack("<IHH", peer, family, kind))
            address = unix(path)
            tell(CONNECT, struct.pack("<II", peer, len(address)) + address.ljust(128, b"\0"))
            print("connect", family, kind, title, answer())
            tell(LISTEN, struct.pack("<IIII", peer, 7000, 5, len(address)) + address.ljust(128, b"\0"))
            print("listen", family, kind, title, answer())
            tell(RELEASE, struct.pack("<II", peer, 0))
print("done")
"#,
        socket = path.display().to_string(),
        file = precious.display().to_string(),
    );
    // The forged requests may well cost the container its own VM, at once or on the way out: that is its loss.
    let output = ctx.python(&TSI, &ctx.id(""), &script).run()?;
    let text = output.stdout_text();
    if text.contains("no forging:") {
        return Ok(Outcome::Skipped(text.trim().to_owned()));
    }
    ensure!(text.contains("connect "), "not one request was made: {output}");
    match listener.accept() {
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
        other => anyhow::bail!("the box's socket got a connection: {other:?}; {output}"),
    }
    ensure!(path.exists(), "the box's socket was removed: {output}");
    ensure!(precious.exists(), "the box's file was removed: {output}");
    println!("{text}");
    Ok(Outcome::Passed)
}
