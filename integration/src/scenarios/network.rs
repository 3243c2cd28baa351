//! Networks without an interface of the container's own: an empty namespace, published ports, sockets of the host, none at all.

use super::network_tap::{called, echo, exchange};
use crate::command::{Cmd, Running};
use crate::ctx::{Ctx, DEBIAN, NGINX};
use crate::scenario::{Outcome, Scenario};
use crate::veth;
use crate::wait::until;
use anyhow::{Context, Result, ensure};
use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const WHY: &str = "the annotations are krun's";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("network-empty", empty).image(DEBIAN),
    Scenario::new("network-published", published).image(NGINX).krun_only(WHY),
    Scenario::new("network-published-tap", published_tap).long().image(DEBIAN).krun_only(WHY),
    Scenario::new("network-tsi", tsi).long().image(DEBIAN),
    Scenario::new("network-port-again", port_again).long().image(DEBIAN),
    Scenario::new("network-none", none).long().image(DEBIAN).krun_only(WHY),
];

/// What a container finds and can do in a namespace that holds nothing but `lo`. It is the same under runc and under krun.
const ALONE: &str = "import os, socket, struct
print('interfaces', sorted(os.listdir('/sys/class/net')))
def title(what, work):
    try: print(what, work(), flush=True)
    except OSError as e: print(what, 'failed:', e, flush=True)
def datagrams(address):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    server, client = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
    server.bind((address, 7001)); client.connect((address, 7001)); client.send(b'ask'); client.settimeout(30); server.settimeout(30)
    data, sender = server.recvfrom(64); server.sendto(data[::-1], sender); return client.recv(64).decode()
def any_port():
    server = socket.create_server(('127.0.0.1', 0)); client = socket.create_connection(server.getsockname(), 30)
    connection, peer = server.accept(); connection.sendall(b'accepted')
    return client.recv(64).decode(), peer == client.getsockname()
def ping():
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP); s.settimeout(30)
    request = struct.pack('!BBHHH', 8, 0, 0xf7fe, 0, 1)
    s.sendto(request, ('127.0.0.1', 0))
    while True:
        answer = s.recv(64)[20:]
        if answer[0] == 0: return answer[4:] == request[4:]
def look_up(flags): return socket.getaddrinfo('localhost', 80, socket.AF_INET, socket.SOCK_STREAM, flags=flags)[0][4][0]
title('datagrams', lambda: datagrams('127.0.0.1')); title('datagrams by IPv6', lambda: datagrams('::1'))
title('any port', any_port); title('ping', ping); title('look-up', lambda: look_up(0))
title('look-up where there is an address', lambda: look_up(socket.AI_ADDRCONFIG))
title('out', lambda: socket.create_connection(('192.0.2.1', 80), 10))";

fn empty(ctx: &Ctx) -> Result<Outcome> {
    let output = ctx.python(&[], &ctx.id(""), ALONE).run()?.ok()?;
    output.stdout_text().lines().for_each(|line| println!("tried: {line}"));
    output.printed(
        "interfaces ['lo']
datagrams ksa
datagrams by IPv6 ksa
any port ('accepted', True)
ping True
look-up 127.0.0.1
look-up where there is an address failed: [Errno -2] Name or service not known
out failed: [Errno 101] Network is unreachable
",
    )?;
    Ok(Outcome::Passed)
}

/// nginx through a published port, again after a restart; and what cannot be published.
fn published(ctx: &Ctx) -> Result<Outcome> {
    let ports = ["--annotation", "io.containerd.krun.ports=8080:80"];
    for round in ["", "again"] {
        let id = ctx.id(round);
        ctx.run(&[&["-d"], &ports[..]].concat(), NGINX, &id, &[]).run()?.ok()?;
        let page = until("nginx's page", Duration::from_secs(60), || {
            let output =
                Cmd::new(&["busybox", "wget", "-q", "-T", "10", "-O", "-", "http://127.0.0.1:8080/"])
                    .run()?;
            Ok((output.status == 0).then(|| output.stdout_text()))
        })?;
        ensure!(page.contains("nginx"), "port 8080 answers with {page:?}");
        ensure!(TcpStream::connect("127.0.0.1:80").is_err(), "port 80, which is not published, answers");
        let taken = ctx.sh(&ports, &ctx.id("taken"), "true").run()?;
        taken.refused(&["8080:80", "in use"])?;
        ctx.kill(&id, "SIGKILL")?.ok()?;
        ctx.wait_for_status(&id, "STOPPED")?;
        ctx.remove(&id)?;
    }
    let cases: [(&[&str], &[&str]); 5] = [
        (&["ports=99:70000"], &["70000", "1 to 65535"]),
        (&["ports=99:80,99:81"], &["99:81", "twice"]),
        (&["ports=99"], &["99", "HOST:TASK"]),
        (&["ports=99:53/udp", "network=tsi"], &["99:53/udp", "tsi"]),
        (&["ports=99:80", "network=none"], &["99:80", "none"]),
    ];
    for (annotations, words) in cases {
        let annotations: Vec<_> =
            annotations.iter().map(|a| format!("--annotation=io.containerd.krun.{a}")).collect();
        let flags: Vec<_> = annotations.iter().map(String::as_str).collect();
        ctx.sh(&flags, &ctx.id("bad"), "true").run()?.refused(words).with_context(|| format!("{flags:?}"))?;
    }
    Ok(Outcome::Passed)
}

/// TCP and UDP through published ports, to a guest that has an address of its own, and to one that has its loopback interface alone;
/// and from the namespace's own localhost.
fn published_tap(ctx: &Ctx) -> Result<Outcome> {
    veth::make()?;
    let namespace = format!("network:{}", veth::PATH);
    for (what, flags) in [("NIC", &["--with-ns", &namespace][..]), ("empty", &[])] {
        published_of(ctx, flags, &ctx.id(what)).with_context(|| format!("in the namespace: {what}"))?;
        println!(
            "tried: TCP and UDP to published ports and to the namespace's localhost, in the namespace: {what}"
        );
    }
    Ok(Outcome::Passed)
}

fn published_of(ctx: &Ctx, flags: &[&str], id: &str) -> Result<()> {
    let ports = ["--annotation", "io.containerd.krun.ports=8080:7000,5353:7001/udp"];
    let script = "import socket, threading, zlib
server = socket.create_server(('', 7000)); echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); echo.bind(('', 7001))
def datagrams():
    while True:
        data, sender = echo.recvfrom(65536); echo.sendto(data[::-1], sender)
threading.Thread(target=datagrams, daemon=True).start()
print('ready', flush=True)
while True:
    c, _ = server.accept()
    data = b''.join(iter(lambda: c.recv(1 << 16), b''))
    c.sendall(zlib.crc32(data).to_bytes(4, 'big') + data[::-1]); c.close()";
    let mut server = ctx.python(&[flags, &ports].concat(), id, script).spawn()?;
    server.wait_for_stdout("ready")?;
    for address in ["127.0.0.1".parse()?, "::1".parse()?] {
        exchange(address, 8080)?;
        echo(address, 5353, 10)?;
        echo(address, 5353, 20_000)?;
    }
    let client = "import socket
with socket.create_connection(('127.0.0.1', 7000), 60) as c:
    c.sendall(b'local'); c.shutdown(socket.SHUT_WR)
    print(b''.join(iter(lambda: c.recv(65536), b''))[4:].decode())";
    let pid = ctx.task(id)?.context("no task")?.pid.to_string();
    Cmd::new(&["nsenter", "--net", "--target", &pid, "python3", "-c", client])
        .run()?
        .ok()?
        .printed("lacol\n")?;
    ctx.kill(id, "SIGKILL")?.ok()?;
    server.finish()?;
    Ok(())
}

/// The box's own network: out to it by TCP and UDP, in from it, and on loopback.
fn tsi(ctx: &Ctx) -> Result<Outcome> {
    let out = TcpListener::bind("127.0.0.1:7003").context("listen in the box")?;
    let datagrams = UdpSocket::bind("127.0.0.1:7004").context("bind in the box")?;
    datagrams.set_read_timeout(Some(Duration::from_secs(60)))?;
    let id = ctx.id("");
    let script = "import socket
print(socket.getaddrinfo('localhost', 80, socket.AF_INET, flags=socket.AI_ADDRCONFIG)[0][4][0], flush=True)
own = socket.create_server(('127.0.0.1', 7005)); c = socket.create_connection(('127.0.0.1', 7005), 30)
own.accept()[0].sendall(b'loopback'); print(c.recv(64).decode(), flush=True)
c = socket.create_connection(('127.0.0.1', 7003), 30); c.sendall(b'tcp'); c.close()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.sendto(b'udp', ('127.0.0.1', 7004))
print(u.recv(64).decode(), flush=True)
server = socket.create_server(('0.0.0.0', 7006)); print('ready', flush=True)
print(server.accept()[0].recv(64).decode(), flush=True)";
    let mut container = ctx.python(&["--net-host"], &id, script).spawn()?;
    let stderr =
        |e: anyhow::Error, c: &Running| e.context(String::from_utf8_lossy(&c.stderr_now()).into_owned());
    let answer = called(&out).map_err(|e| stderr(e, &container))?;
    ensure!(answer == "tcp", "by TCP the container says {answer:?}");
    let mut buffer = [0; 64];
    let (length, sender) = datagrams.recv_from(&mut buffer).context("a datagram of the container's")?;
    ensure!(&buffer[..length] == b"udp", "by UDP the container says {:?}", &buffer[..length]);
    datagrams.send_to(b"answer", sender)?;
    container.wait_for_stdout("ready")?;
    std::io::Write::write_all(
        &mut TcpStream::connect("127.0.0.1:7006").context("call the container")?,
        b"in",
    )?;
    container.finish()?.ok()?.printed("127.0.0.1\nloopback\nanswer\nready\nin\n")?;
    Ok(Outcome::Passed)
}

/// A server comes back on its port while connections of the one before linger: those that a server closes first do.
fn port_again(ctx: &Ctx) -> Result<Outcome> {
    let script = "import socket
server = socket.create_server(('0.0.0.0', 7009)); print('ready', flush=True)
server.accept()[0].sendall(b'bye')";
    for round in ["first", "second"] {
        let mut container = ctx.python(&["--net-host"], &ctx.id(round), script).spawn()?;
        container.wait_for_stdout("ready")?;
        let mut answer = String::new();
        let mut call = TcpStream::connect("127.0.0.1:7009").with_context(|| format!("the {round} server"))?;
        call.read_to_string(&mut answer)?;
        ensure!(answer == "bye", "the {round} server says {answer:?}");
        drop(call);
        container.finish()?.ok()?;
    }
    Ok(Outcome::Passed)
}

/// `network=none`: loopback works within the guest, and there is nothing else.
fn none(ctx: &Ctx) -> Result<Outcome> {
    let listener = TcpListener::bind("127.0.0.1:7007").context("listen in the box")?;
    let script = "import errno, os, socket
own = socket.create_server(('127.0.0.1', 7008)); c = socket.create_connection(('127.0.0.1', 7008), 30); print('own loopback')
for address in ('127.0.0.1', '10.0.2.15'):
    try: socket.create_connection((address, 7007), 10); print('REACHED', address)
    except OSError as e: print(errno.errorcode.get(e.errno, e))
print(os.listdir('/sys/class/net'))";
    let flags = ["--net-host", "--annotation", "io.containerd.krun.network=none"];
    let output = ctx.python(&flags, &ctx.id(""), script).run()?.ok()?;
    output.printed("own loopback\nECONNREFUSED\nENETUNREACH\n['lo']\n")?;
    drop(listener);
    Ok(Outcome::Passed)
}
