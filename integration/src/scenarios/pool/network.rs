//! The NIC of a VM that has waited is any interface's, of both families, and a pod's.

use super::{Pool, taken_since};
use crate::containerd_log;
use crate::cri::{file, handler, says, set_up, unsuitable};
use crate::ctx::{BUSYBOX, Ctx, DEBIAN};
use crate::scenario::Outcome;
use crate::veth::{self, BOX};
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::net::TcpListener;
use std::time::Duration;

use super::super::network_tap::called;

/// What a guest's NIC is told by, and whether it reaches the box by both families.
const SHOW: &str = "import socket, subprocess, sys
for command in ('link show eth0', 'address show eth0', 'route', '-6 route', 'neighbour'):
    print(subprocess.run(['ip', *command.split()], capture_output=True, text=True, check=True).stdout)
for address in sys.argv[1:]:
    socket.create_connection((address, 7002), 60).sendall(b'hello from inside')
";

/// The same in a VM of the pool's and in another one.
pub fn network(ctx: &Ctx) -> Result<Outcome> {
    veth::make()?;
    let before = veth::state()?;
    let flags = format!("--with-ns=network:{}", veth::PATH);
    let show = |name: &str| -> Result<String> {
        let args = [&["python3", "-c", SHOW][..], &BOX].concat();
        let listeners = BOX.map(|address| TcpListener::bind((address, 7002)).context("listen in the box"));
        let container = ctx.run(&["--rm", &flags], DEBIAN, &ctx.id(name), &args).spawn()?;
        for listener in listeners {
            let said = called(&listener?)?;
            ensure!(said == "hello from inside", "a call from the container says {said:?}");
        }
        let shown = container.finish()?.ok()?.stdout_text();
        // The number of the interface in the guest differs, the address that it had before, and what neighbours it has met.
        let lines = shown.lines().filter(|line| !line.contains(" lladdr ") || line.contains("PERMANENT"));
        let lines = lines.map(|line| line.split_once(" permaddr ").map_or(line, |(line, _)| line));
        let kept = lines.map(|line| line.split_once(": ").map_or(line, |(_, rest)| rest));
        Ok(kept.collect::<Vec<_>>().join("\n"))
    };
    let cold = show("cold")?;
    ensure!(cold.contains("10.77.0.2/24") && cold.contains("fd77::2/64"), "the cold one has {cold}");
    let pool = Pool::start(ctx, "[[pool]]\ncount = 1\n", 1)?;
    let mark = containerd_log::mark();
    let warm = show("warm")?;
    ensure!(taken_since(mark)? == 1, "the VM is not the pool's");
    ensure!(warm == cold, "a VM of the pool's has\n{warm}\nand another one\n{cold}");
    ensure!(veth::state()? == before, "the namespace had\n{before}\nand has\n{}", veth::state()?);
    println!("tried: a NIC with two families and jumbo frames: the same in both");

    // Two interfaces are more than it has.
    veth::second_cable()?;
    let mark = containerd_log::mark();
    ctx.sh(&[&flags], &ctx.id("two"), "ls /sys/class/net").run()?.ok()?;
    ensure!(taken_since(mark)? == 0, "a VM with two NICs is the pool's");
    pool.end()?;
    Ok(Outcome::Passed)
}

/// A pod by the CRI, of two containers.
pub fn pod(ctx: &Ctx) -> Result<Outcome> {
    if let Some(why) = unsuitable()? {
        return Ok(Outcome::Skipped(why));
    }
    set_up(ctx)?;
    let pool = Pool::start(ctx, "[[pool]]\ncount = 1\n", 1)?;
    let mark = containerd_log::mark();
    let pod = file(
        ctx,
        "pod",
        &json!({
            "metadata": {"name": "pooled", "uid": "pooled", "namespace": "default"}, "hostname": "pooled",
            "log_directory": ctx.work("logs"), "linux": {},
        }),
    )?;
    let container = |name: &str, script: &str| {
        file(
            ctx,
            name,
            &json!({
                "metadata": {"name": name}, "image": {"image": BUSYBOX}, "command": ["sh", "-c", script],
                "log_path": format!("{name}.log"),
                "linux": {"resources": {"memory_limit_in_bytes": 64 << 20}},
            }),
        )
    };
    let server = container("server", "nc -ll -p 8080 -e echo from the pod")?;
    let client = container("client", "sleep 1000")?;
    let id = says(&["runp", "--runtime", handler(ctx), &pod])?;
    let start = |config: &str| -> Result<String> {
        let container = says(&["create", "--no-pull", &id, config, &pod])?;
        says(&["start", &container])?;
        Ok(container)
    };
    start(&server)?;
    let client = start(&client)?;
    ensure!(taken_since(mark)? == 1, "the pod's VM is not the pool's");
    let exec = |script: &str| says(&["exec", &client, "sh", "-c", script]);
    until_true("an answer by localhost", Duration::from_secs(20), || {
        Ok(exec("nc -w 3 127.0.0.1 8080 || true")?.contains("from the pod"))
    })?;
    ensure!(exec("hostname")? == "pooled", "the hostname is {}", exec("hostname")?);
    let template = "{{.status.network.ip}}";
    let address = says(&["inspectp", "-o", "go-template", "--template", template, &id])?;
    let answer =
        crate::command::Cmd::new(&["busybox", "nc", "-w", "10", &address, "8080"]).run()?.stdout_text();
    ensure!(answer.contains("from the pod"), "the box hears {answer:?} at {address}");
    says(&["stopp", &id])?;
    says(&["rmp", &id])?;
    println!("tried: a pod of two containers with an address of CNI's, in a VM of the pool's");
    pool.end()?;
    Ok(Outcome::Passed)
}
