//! A pod by the CRI: one VM, whose containers share what Kubernetes promises.

use crate::cri::{file, handler, says, set_up, unsuitable};
use crate::ctx::{BUSYBOX, Ctx};
use crate::procs;
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[Scenario::new("pod", pod).needs("crictl").timeout(400)];

/// The CRI's NamespaceMode. Source: cri-api `api.proto`.
const POD: u8 = 0;
const CONTAINER: u8 = 1;
const NODE: u8 = 2;

/// In a network namespace made by CNI, then in the host's.
fn pod(ctx: &Ctx) -> Result<Outcome> {
    if let Some(why) = unsuitable()? {
        return Ok(Outcome::Skipped(why));
    }
    set_up(ctx)?;
    in_network(ctx, POD, Some("pair"))?;
    in_network(ctx, NODE, None)?;
    Ok(Outcome::Passed)
}

fn in_network(ctx: &Ctx, network: u8, hostname: Option<&str>) -> Result<()> {
    let options = json!({"network": network, "pid": CONTAINER, "ipc": POD});
    let security = json!({"security_context": {"namespace_options": options}});
    let pod = file(
        ctx,
        "pod",
        &json!({
            "metadata": {"name": "pair", "uid": format!("pair-{network}"), "namespace": "default"},
            "hostname": hostname.unwrap_or_default(), "log_directory": ctx.work(&format!("logs-{network}")), "linux": security,
        }),
    )?;
    let container = |name: &str, serve: &str| {
        let script = format!("{serve} echo {name} is up; trap 'exit 3' TERM; while :; do sleep 0.2; done");
        file(
            ctx,
            name,
            &json!({
                "metadata": {"name": name}, "image": {"image": BUSYBOX}, "command": ["sh", "-c", script],
                "log_path": format!("{name}.log"),
                "linux": {"resources": {"oom_score_adj": 300, "memory_limit_in_bytes": 64 << 20, "cpu_quota": 50_000, "cpu_period": 100_000}, "security_context": security["security_context"]},
            }),
        )
    };
    let (one, two) = (container("one", "nc -ll -p 8080 -e echo from one &")?, container("two", "")?);
    let exec = |id: &str, script: &str| says(&["exec", id, "sh", "-c", script]);

    let id = says(&["runp", "--runtime", handler(ctx), &pod])?;
    let start = |config: &str| -> Result<String> {
        let container = says(&["create", "--no-pull", &id, config, &pod])?;
        says(&["start", &container])?;
        Ok(container)
    };
    let (a, b) = (start(&one)?, start(&two)?);
    limits_are_shown(&a)?;
    if ctx.krun() {
        let processes = procs::all()?;
        let [vmm] = processes.iter().filter(|process| process.is_called("krun-vmm")).collect::<Vec<_>>()[..]
        else {
            anyhow::bail!("a pod of two has not one VM")
        };
        let (own, shims) = (procs::cgroup_of(vmm.pid)?, procs::cgroup_of(vmm.ppid)?);
        let pods = own.strip_suffix("/vm").context("the vmm is in no part of the pod's cgroup")?;
        ensure!(
            pods.ends_with(&id) && shims == format!("{pods}/shim"),
            "the vmm is in cgroup {own}, the shim in {shims}, the pod is {id}"
        );
        for file in [format!("{own}/pids.max"), format!("{pods}/memory.max")] {
            let limit = fs::read_to_string(format!("/sys/fs/cgroup{file}")).with_context(|| file.clone())?;
            ensure!(limit.trim() != "max", "the VM has no limit in {file}");
        }
        let score =
            fs::read_to_string(format!("/proc/{}/oom_score_adj", vmm.pid)).context("oom_score_adj")?;
        ensure!(score.trim() == "300", "the vmm's oom_score_adj is {score}, its containers' 300");
    }

    let name = hostname.map_or_else(box_name, |name| Ok(name.to_owned()))?;
    for container in [&a, &b] {
        let seen = exec(container, "hostname")?;
        ensure!(seen == name, "the hostname is {seen}, not {name}");
    }
    until_true("an answer by localhost", Duration::from_secs(20), || {
        Ok(exec(&b, "nc -w 3 127.0.0.1 8080 || true")?.contains("from one"))
    })?;
    exec(&a, "echo shared >/dev/shm/file")?;
    ensure!(exec(&b, "cat /dev/shm/file")? == "shared", "/dev/shm is not shared");
    let ipc = |container: &str| exec(container, "readlink /proc/self/ns/ipc");
    ensure!(ipc(&a)? == ipc(&b)?, "the containers have different IPC namespaces");
    ensure!(
        exec(&a, "ps | grep -c '[t]wo is up' || true")? == "0",
        "one container sees the other's processes"
    );
    ensure!(says(&["logs", &a])? == "one is up", "the log of one is {}", says(&["logs", &a])?);

    for container in [&a, &b] {
        // Without a time it kills at once.
        says(&["stop", "--timeout", "30", container])?;
        let template = "{{.status.exitCode}}";
        let status = says(&["inspect", "-o", "go-template", "--template", template, container])?;
        ensure!(status == "3", "a stopped container's status is {status}");
    }
    // The pod outlives its containers.
    says(&["rm", &a])?;
    let again = start(&one)?;
    ensure!(exec(&again, "cat /dev/shm/file")? == "shared", "/dev/shm was lost");
    says(&["stopp", &id])?;
    says(&["rmp", &id])?;
    ensure!(says(&["ps", "-aq"])?.is_empty(), "containers are left: {}", says(&["ps", "-a"])?);
    Ok(())
}

/// Who looks at a container's cgroup on the host finds its limits there, as they are now.
fn limits_are_shown(container: &str) -> Result<()> {
    let pid = says(&["inspect", "-o", "go-template", "--template", "{{.info.pid}}", container])?;
    let cgroup = procs::cgroup_of(pid.parse().context("a pid")?)?;
    let read = |file: &str| -> Result<String> {
        let path = format!("/sys/fs/cgroup{cgroup}/{file}");
        Ok(fs::read_to_string(&path).context(path)?.trim().to_owned())
    };
    let seen = (read("memory.max")?, read("cpu.max")?);
    ensure!(
        seen == ((64 << 20).to_string(), "50000 100000".to_owned()),
        "the limits are {seen:?} in {cgroup}"
    );
    says(&["update", "--memory", &(48 << 20).to_string(), container])?;
    ensure!(read("memory.max")? == (48 << 20).to_string(), "the new limit is {}", read("memory.max")?);
    Ok(())
}

fn box_name() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname").context("read the box's name")?.trim().to_owned())
}
