//! krunctl's networks: published ports, and a policy that holds whatever the guest does.

use crate::command::{Cmd, Output};
use crate::ctx::{Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use crate::veth;
use crate::wait::until_true;
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::krunctl::WHY;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("krunctl-network", published).krun_only(WHY),
    Scenario::new("krunctl-network-policy", policy).long().krun_only(WHY),
    Scenario::new("krunctl-network-tsi", tsi).long().krun_only(WHY),
    Scenario::new("krunctl-network-udp", udp).long().image(DEBIAN).krun_only(WHY),
];

const PATIENCE: Duration = Duration::from_secs(60);

/// A root with a web server and what looks at networks.
fn root(ctx: &Ctx) -> Result<String> {
    let root = spec::busybox_root(&ctx.work("root"))?;
    for applet in ["httpd", "wget", "nc", "ip", "nslookup", "arping", "ping"] {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::create_dir(root.join("www"))?;
    fs::write(root.join("www/index.html"), "hello\n")?;
    Ok(root.display().to_string())
}

fn fetch(port: u16) -> Result<Output> {
    Cmd::new(&["busybox", "wget", "-q", "-O", "-", &format!("http://127.0.0.1:{port}/")]).run()
}

/// The app behind a process manager: one published port, secrets in the environment only, READY when it answers.
fn published(ctx: &Ctx) -> Result<Outcome> {
    let root = root(ctx)?;
    let socket = ctx.work("notify");
    let manager = UnixDatagram::bind(&socket)?;
    manager.set_read_timeout(Some(PATIENCE))?;
    let command = format!(
        "NOTIFY_SOCKET={} HOST=example.org INTERNAL_SECRET=hunter2 exec krunctl run --root {root} -p 8123:80 -e HOST \
         -e INTERNAL_SECRET --memory 256 -- /bin/sh -c 'echo secret $INTERNAL_SECRET of $HOST; httpd -f -p 81 -h /www & exec httpd -f -p 80 -h /www'",
        socket.display()
    );
    let app = Cmd::new(&["sh", "-c", &command]).spawn()?;
    let mut message = [0; 64];
    let length = manager.recv(&mut message)?;
    ensure!(&message[..length] == b"READY=1\n" || &message[..length] == b"READY=1", "{message:?}");
    fetch(8123)?.ok()?.printed("hello\n")?;
    ensure!(fetch(80)?.status != 0 && fetch(81)?.status != 0, "a port is open that was not published");
    let lines = fs::read_to_string(format!("/proc/{}/cmdline", app.pid()))?;
    ensure!(!lines.contains("hunter2"), "the secret is on the command line");
    let taken = krunctl_run(&root, &["-p", "8123:80"], "true")?;
    taken.expect_status(125)?.refused(&["8123"])?;
    app.signal(Signal::SIGTERM)?;
    app.finish()?.expect_status(128 + 15)?.printed("secret hunter2 of example.org\n")?;
    until_true("the port to be free", PATIENCE, || Ok(TcpListener::bind("0.0.0.0:8123").is_ok()))?;
    Ok(Outcome::Passed)
}

fn krunctl_run(root: &str, flags: &[&str], script: &str) -> Result<Output> {
    let words =
        [&["krunctl", "run", "--root", root, "--memory", "256"], flags, &["--", "/bin/sh", "-c", script]];
    Cmd::new(&words.concat()).run()
}

/// Where nothing but one address is allowed, that one is reached, and neither another nor this host, by IP or by DNS.
fn policy(ctx: &Ctx) -> Result<Outcome> {
    let root = root(ctx)?;
    // A server on an address of this box that is not the VM's gateway, and one that is not allowed.
    let server =
        Cmd::new(&["busybox", "httpd", "-f", "-p", "0.0.0.0:8124", "-h", &format!("{root}/www")]).spawn()?;
    let try_all = "for to in 10.213.0.1:22 10.0.2.15:8124 10.213.0.1:8124 192.0.2.1:80; do
          nc -w 3 ${to%:*} ${to#*:} </dev/null >/dev/null 2>&1 && echo reached $to; done
        nslookup example.com 10.213.0.1 >/dev/null 2>&1 && echo resolved
        ip -6 addr show dev eth0 | grep -q 'inet6 2' && echo six; echo done";
    for flags in
        [&["--deny-all"][..], &["--allow-net", "198.51.100.0/24:443"], &["--allow-host", "example.org"]]
    {
        krunctl_run(&root, flags, try_all)?.ok()?.printed("done\n")?;
    }
    let kernel = Cmd::new(&["dmesg"]).run()?.ok()?.stdout_text();
    ensure!(kernel.contains("refused: IN=krun"), "no refusal was logged");
    drop(server);
    for (flags, words) in [
        (&["--network", "none", "-p", "8125:80"][..], &["--network none", "-p"][..]),
        (&["-p", "80"], &["-p", "80", "HOST:GUEST"]),
        (&["--allow-net", "10.0.0.0/33"], &["--allow-net", "10.0.0.0/33"]),
        (&["--allow-host", "a b"], &["--allow-host", "a b"]),
    ] {
        krunctl_run(&root, flags, "true")?.expect_status(125)?.refused(words)?;
    }
    let left = Cmd::new(&["nft", "list", "tables"]).run()?.ok()?.stdout_text();
    ensure!(!left.contains("krunctl"), "left behind: {left}");
    Ok(Outcome::Passed)
}

/// Sockets of the host's in a network of the VM's own: ports are published, and a policy holds, as with a NIC.
fn tsi(ctx: &Ctx) -> Result<Outcome> {
    let root = root(ctx)?;
    let words =
        ["krunctl", "run", "--root", &root, "--memory", "256", "--network", "tsi", "-p", "8123:80", "--"];
    let app = Cmd::new(&[&words[..], &["/bin/sh", "-c", "exec httpd -f -p 80 -h /www"]].concat()).spawn()?;
    until_true("the page", PATIENCE, || Ok(fetch(8123)?.stdout == b"hello\n"))?;
    app.signal(Signal::SIGTERM)?;
    app.finish()?.expect_status(128 + 15)?;

    veth::make()?;
    let serve = ["busybox", "httpd", "-f", "-p", "0.0.0.0:8124", "-h", &format!("{root}/www")];
    let (_here, _outside) = (Cmd::new(&serve).spawn()?, veth::inside(&serve).spawn()?);
    let outside = veth::TASK[0];
    let try_all = format!(
        "for to in 127.0.0.1:8124 10.0.2.15:8124 10.213.0.1:8124 {outside}:8124 {outside}:22 192.0.2.1:80; do
          nc -w 3 ${{to%:*}} ${{to#*:}} </dev/null >/dev/null 2>&1 && echo reached $to; done
        nslookup example.com 10.213.0.1 >/dev/null 2>&1 && echo resolved; echo done"
    );
    let run =
        |flags: &[&str], script: &str| krunctl_run(&root, &[&["--network", "tsi"], flags].concat(), script);
    for flags in
        [&["--deny-all"][..], &["--allow-net", "198.51.100.0/24:443"], &["--allow-host", "example.org"]]
    {
        run(flags, &try_all)?.ok()?.printed("done\n")?;
    }
    // The host's own addresses stay closed.
    let (allowed, own) = (format!("{outside}:8124"), "10.0.2.15:8124");
    run(&["--allow-net", &allowed, "--allow-net", own], &try_all)?
        .ok()?
        .printed(&format!("reached {allowed}\ndone\n"))?;
    run(&["-p", "8125:80/udp"], "true")?.expect_status(125)?.refused(&["udp", "tsi"])?;
    Ok(Outcome::Passed)
}

/// A port of UDP is published as well.
fn udp(ctx: &Ctx) -> Result<Outcome> {
    let archive = ctx.work("debian.tar").display().to_string();
    // Without --local ctr of 2.1 may end before the file's last bytes are written.
    ctx.ctr(&["image", "export", "--local", &archive, DEBIAN]).run()?.ok()?;
    crate::undo::remember(&["rm", "-rf", "/var/lib/krun/images"])?;
    let script =
        "import signal, socket, sys\nsignal.signal(15, lambda *_: sys.exit(3))\ns = socket.socket(type=socket.SOCK_DGRAM)\ns.bind(('', 7))\nprint('up', flush=True)
while True: s.sendto(*s.recvfrom(2000))";
    let first = ["krunctl", "run", "--memory", "512", "--image", &archive, "-p", "8127:7/udp", "--"];
    let mut server = Cmd::new(&[&first[..], &["python3", "-c", script]].concat()).spawn()?;
    server.wait_for_stdout("up\n")?;
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    until_true("an echo by UDP", PATIENCE, || {
        client.send_to(b"ping", "127.0.0.1:8127")?;
        let mut answer = [0; 16];
        Ok(client.recv(&mut answer).is_ok_and(|length| &answer[..length] == b"ping"))
    })?;
    server.signal(Signal::SIGTERM)?;
    server.finish()?.expect_status(3)?;
    Ok(Outcome::Passed)
}
