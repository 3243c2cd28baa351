//! nerdctl's bridge networks: published ports, containers that know each other by name, ping, traceroute, a resolver.

use super::nerdctl::nerdctl;
use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx, NGINX, REDIS};
use crate::scenario::{Outcome, Scenario};
use crate::undo;
use crate::wait::{until, until_true};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("nerdctl-published", published).needs("nerdctl").image(NGINX).timeout(400),
    Scenario::new("nerdctl-by-name", by_name).needs("nerdctl").image(REDIS).timeout(500),
    Scenario::new("nerdctl-compose-network", compose).needs("nerdctl").image(NGINX).timeout(500),
];

/// Long enough for two microVMs that boot at once in a busy box.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of the network that these scenarios make.
const SUBNET: &str = "10.79.0.0/24";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);

/// `nerdctl run --runtime R FLAGS… IMAGE ARGS…`
fn run(ctx: &Ctx, flags: &[&str], image: &str, args: &[&str]) -> Cmd {
    nerdctl(&[&["run", "--runtime", ctx.runtime.containerd_name()], flags, &[image], args].concat())
}

/// What the box's own port answers, if it does.
pub fn fetch(port: u16) -> Result<Option<String>> {
    let url = format!("http://127.0.0.1:{port}/");
    let output = Cmd::new(&["busybox", "wget", "-q", "-T", "10", "-O", "-", &url]).run()?;
    Ok((output.status == 0).then(|| output.stdout_text()))
}

/// nginx on a port of the box, also after a restart.
fn published(ctx: &Ctx) -> Result<Outcome> {
    let name = ctx.id("");
    run(ctx, &["-d", "--name", &name, "-p", "8080:80"], NGINX, &[]).run()?.ok()?;
    let page = until("nginx's page", PATIENCE, || fetch(8080))?;
    ensure!(page.contains("nginx"), "port 8080 answers with {page:?}");
    let ports = nerdctl(&["port", &name]).run()?.ok()?.stdout_text();
    ensure!(ports.starts_with("80/tcp -> 0.0.0.0:8080"), "nerdctl port says {ports}");
    nerdctl(&["restart", &name]).run()?.ok()?;
    until("its page after a restart", PATIENCE, || fetch(8080))?;
    nerdctl(&["rm", "-f", &name]).run()?.ok()?;
    ensure!(TcpStream::connect("127.0.0.1:8080").is_err(), "port 8080 answers without a container");
    Ok(Outcome::Passed)
}

/// Redis and its client on a network, and what else is expected of one.
fn by_name(ctx: &Ctx) -> Result<Outcome> {
    let (network, server) = (ctx.id("net"), ctx.id("server"));
    undo::remember(&["sh", "-c", &format!("nerdctl rm -f {server}; nerdctl network rm {network}; true")])?;
    nerdctl(&["network", "create", "--subnet", SUBNET, &network]).run()?.ok()?;
    run(ctx, &["-d", "--name", &server, "--net", &network], REDIS, &[]).run()?.ok()?;

    let ask = format!("redis-cli -h {server} set key value && redis-cli -h {server} get key");
    until_true("redis' answer", PATIENCE, || {
        let client = run(ctx, &["--rm", "--net", &network], REDIS, &["sh", "-c", &ask]).run()?;
        Ok(client.status == 0 && client.stdout_text() == "OK\nvalue\n")
    })?;

    resolve()?;
    let script = format!(
        "ping -c 2 -W 20 {server} >/dev/null && echo pinged
         traceroute -n -q 1 -w 20 -m 3 {GATEWAY} | sed -n 's/^ *\\([0-9]\\)  *\\([0-9.]*\\) .*/hop \\1 \\2/p'
         nslookup -type=a anything.example | sed -n 's/^Address: *{ANSWER}$/resolved/p'"
    );
    let flags = ["--rm", "--net", &network, "--dns", &GATEWAY.to_string()];
    let expected = format!("pinged\nhop 1 {GATEWAY}\nresolved\n");
    run(ctx, &flags, BUSYBOX, &["sh", "-c", &script]).run()?.ok()?.printed(&expected)?;
    Ok(Outcome::Passed)
}

/// Two services on a network of their own: one asks the other by name and publishes what it got.
fn compose(ctx: &Ctx) -> Result<Outcome> {
    let file = ctx.work("compose.yaml");
    let runtime = ctx.runtime.containerd_name();
    let text = format!(
        "services:
  web:
    image: {NGINX}
    runtime: {runtime}
  copy:
    image: {BUSYBOX}
    runtime: {runtime}
    depends_on: [web]
    ports: [\"8081:80\"]
    command: [\"sh\", \"-c\", \"until wget -q -O /tmp/index.html http://web/; do sleep 1; done; httpd -f -h /tmp\"]
"
    );
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let file = file.display().to_string();
    let compose = |words: &[&str]| nerdctl(&[&["compose", "-p", "linked", "-f", &file], words].concat());
    compose(&["up", "-d"]).timeout(240).run()?.ok()?;
    let page = until("the copied page", PATIENCE, || fetch(8081))?;
    ensure!(page.contains("nginx"), "port 8081 answers with {page:?}");
    compose(&["down"]).timeout(120).run()?.ok()?;
    Ok(Outcome::Passed)
}

/// What the resolver answers to every question.
const ANSWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

/// A DNS server on the network's bridge; it ends with this process.
fn resolve() -> Result<()> {
    let socket = UdpSocket::bind((GATEWAY, 53)).context("listen on the bridge's port 53")?;
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut question) {
            if socket.send_to(&answer(&question[..length]), asker).is_err() {
                break;
            }
        }
    });
    Ok(())
}

/// One A record for the question's name. Source: RFC 1035, sections 4.1.1 and 4.1.3.
fn answer(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    // A response without error, recursion available; one answer, nothing further.
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    // The name at offset 12, type A, class IN, 60 s, 4 bytes.
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(ANSWER.octets());
    answer
}
