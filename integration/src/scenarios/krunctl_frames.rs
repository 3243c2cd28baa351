//! krunctl's egress policy against a guest that makes frames of its own, and one that goes by names. The world outside is a network
//! namespace.

use crate::command::Cmd;
use crate::ctx::{Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use crate::veth::{self, BOX, TASK};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::symlink;

use super::krunctl::WHY;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("krunctl-network-frames", frames).long().image(DEBIAN).krun_only(WHY).timeout(600),
    Scenario::new("krunctl-network-names", names).long().krun_only(WHY),
];

/// The address of the world that a name leads to.
const FAR: &str = "203.0.113.7";

const RESOLV_CONF: &str = "/etc/resolv.conf";

const GUEST: &str = include_str!("files/frames_out.py");

/// What arrives where there is no policy. The shim's rules for taps, or the host, drop the others in any case: `hostile-spoofing` shows
/// that such frames are good.
const GOOD: [&str; 5] = ["BAD port", "BAD DNS", "BAD protocol", "BAD tunnel", "BAD fragments"];

/// The world: answers at the port that is allowed and at one that is not, by both protocols, and prints the titles that come.
const WORLD: &str = r#"
import socket, threading
for port in (7001, 7002):
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        server = socket.socket(family)
        if family == socket.AF_INET6: server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port)); server.listen()
        def serve(server=server):
            while True: server.accept()[0].send(b"x")
        threading.Thread(target=serve, daemon=True).start()
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("0.0.0.0", 53))
def answer(query):
    if len(query) < 17: return b"x"
    end = query.index(0, 12) + 5
    name = query[12:end - 4]
    near = name == b"\x07example\x03net\0"
    known = near or name == b"\x07example\x03org\0"
    found = known and query[end - 4:end - 2] == b"\0\1"
    head = query[:2] + (b"\x81\x80" if known else b"\x81\x83") + b"\0\1" + bytes([0, found]) + bytes(4)
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton("10.77.0.2" if near else "203.0.113.7")
    return head + query[12:end] + (record if found else b"")
def resolve():
    while True:
        query, asker = names.recvfrom(512)
        names.sendto(answer(query), asker)
threading.Thread(target=resolve, daemon=True).start()
heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
print("ready", flush=True)
while True:
    frame = heard.recv(4096)
    if b"<" in frame and frame.endswith(b">"): print(frame[frame.rindex(b"<") + 1:-1].decode(), flush=True)
    elif b"<BAD" in frame: print(frame[frame.index(b"<BAD") + 1:].split(b">")[0].decode(), flush=True)
    elif b"......" in frame: print("BAD fragments", flush=True)
"#;

/// With a policy, one address and port are reached, whatever the guest sends. Without one, the same frames arrive: they are good.
fn frames(ctx: &Ctx) -> Result<Outcome> {
    veth::make()?;
    let (world, guest) = (ctx.work("world.py"), ctx.work("guest"));
    fs::write(&world, WORLD).context("write the world")?;
    fs::create_dir(&guest).context("make a directory")?;
    let script = GUEST.replace("{to4}", TASK[0]).replace("{to6}", TASK[1]).replace("{box4}", BOX[0]);
    fs::write(guest.join("frames.py"), script).context("write the guest's")?;
    let archive = ctx.work("debian.tar").display().to_string();
    // Without --local ctr of 2.1 may end before the file's last bytes are written.
    ctx.ctr(&["image", "export", "--local", &archive, DEBIAN]).run()?.ok()?;
    crate::undo::remember(&["rm", "-rf", "/var/lib/krun/images"])?;

    let allow = format!("{}/32:7001", TASK[0]);
    for (flags, arrive) in [(&["--allow-net", allow.as_str()][..], false), (&["--network", "tap"], true)] {
        let mut world = veth::inside(&["python3", &world.display().to_string()]).timeout(600).spawn()?;
        world.wait_for_stdout("ready\n")?;
        let volume = format!("{}:/guest:ro", guest.display());
        let first = ["krunctl", "run", "--memory", "512", "--image", &archive, "-v", &volume];
        let words = [&first[..], flags, &["--", "python3", "/guest/frames.py"]].concat();
        let output = Cmd::new(&words).timeout(300).run()?.ok()?.has_line("sent")?;
        world.wait_for_stdout("own last\n")?;
        world.signal(nix::sys::signal::Signal::SIGTERM)?;
        let heard = world.finish()?.stdout_text();
        println!("tried: {flags:?}: {}", output.stdout_text().replace('\n', ", "));
        println!("tried: {flags:?}: outside were heard: {}", heard.replace('\n', ", "));
        let said = output.stdout_text();
        ensure!(said.contains("REACHED allowed"), "what is allowed is not reached: {output}");
        ensure!(heard.contains("own first"), "a frame that is allowed was lost: {heard}");
        let (reached, bad) = (said.matches("REACHED").count(), heard.matches("BAD").count());
        if arrive {
            ensure!(reached == 3, "it does not reach what it may: {output}");
            for title in GOOD {
                ensure!(heard.contains(title), "{title} was no good frame: {heard}");
            }
        } else {
            ensure!(reached == 1 && bad == 0, "the policy let through: {said} {heard}");
        }
    }
    Ok(Outcome::Passed)
}

/// With a name allowed, what that resolves to is reached once the guest has asked us for it, and nothing else.
fn names(ctx: &Ctx) -> Result<Outcome> {
    veth::make()?;
    let (world, before) = (ctx.work("world.py"), ctx.work("resolv.conf"));
    fs::write(&world, WORLD).context("write the world")?;
    fs::copy(RESOLV_CONF, &before).context("keep the list of name servers")?;
    crate::undo::remember(&["cp", &before.display().to_string(), RESOLV_CONF])?;
    fs::write(RESOLV_CONF, format!("nameserver {}\n", TASK[0])).context("write a list of name servers")?;
    let root = spec::busybox_root(&ctx.work("root"))?;
    for applet in ["nc", "nslookup", "grep"] {
        symlink("busybox", root.join("bin").join(applet)).context("link an applet")?;
    }
    // An address that could be somebody's on the Internet: names do not open those that are near the host.
    veth::inside(&["ip", "address", "add", &format!("{FAR}/32"), "dev", "lo"]).run()?.ok()?;
    veth::ip(&format!("route add {FAR}/32 via {}", TASK[0]))?;
    let mut world = veth::inside(&["python3", &world.display().to_string()]).timeout(300).spawn()?;
    world.wait_for_stdout("ready\n")?;
    let script = format!(
        "dial() {{ nc -w 5 $1 $2 </dev/null 2>/dev/null | grep -q x && echo reached $1 $2; }}
         dial {FAR} 7001; nslookup other.example $GATE >/dev/null 2>&1 && echo other
         nslookup example.net $GATE 2>&1 | grep {near}; dial {near} 7001
         nslookup example.org $GATE | grep -c {FAR}; dial {FAR} 7001; dial {FAR} 7002; dial {near} 7001
         nslookup example.org {near} >/dev/null 2>&1 && echo asked; true",
        near = TASK[0]
    );
    let script = format!("GATE=$(grep nameserver /etc/resolv.conf); GATE=${{GATE#nameserver }}; {script}");
    let words = ["krunctl", "run", "--root", &root.display().to_string(), "--memory", "256"];
    let flags =
        ["--allow-host", "example.org:7001", "--allow-host", "example.net", "--", "/bin/sh", "-c", &script];
    let output = Cmd::new(&[&words[..], &flags].concat()).timeout(200).run()?.ok()?;
    world.signal(nix::sys::signal::Signal::SIGTERM)?;
    world.finish()?;
    let said = output.stderr_text();
    for name in ["other.example", "example.net"] {
        ensure!(said.contains(name), "nothing is said of {name}: {output}");
    }
    output.printed(&format!("1\nreached {FAR} 7001\n"))?;
    Ok(Outcome::Passed)
}
