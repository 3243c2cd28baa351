//! Docker with the runtime: what people do with `docker` and `docker compose`. dockerd is the scenario's own, on the box's containerd.

mod compose;
mod daemon;
mod network;
mod run;

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::Scenario;
use anyhow::Result;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("docker-run", run::with_flags).needs("dockerd").timeout(400),
    Scenario::new("docker-background", run::background).needs("dockerd").timeout(400),
    Scenario::new("docker-restart", run::restart).needs("dockerd").timeout(500),
    Scenario::new("docker-network", network::network).needs("dockerd").timeout(400),
    Scenario::new("docker-compose", compose::compose).needs("dockerd").timeout(600),
];

/// `docker ARGS…`
fn docker(args: &[&str]) -> Cmd {
    Cmd::new(&[&["docker"], args].concat()).timeout(120)
}

/// `docker run --runtime R FLAGS… localhost/busybox:1 sh -c SCRIPT`
fn run(ctx: &Ctx, flags: &[&str], script: &str) -> Cmd {
    let runtime = ["run", "--runtime", ctx.runtime.containerd_name()];
    docker(&[&runtime, flags, &[BUSYBOX, "sh", "-c", script]].concat())
}

/// What a shell in a running container says.
fn says(name: &str, script: &str) -> Result<String> {
    Ok(docker(&["exec", name, "sh", "-c", script]).run()?.ok()?.stdout_text().trim().to_owned())
}

/// A field of a container's state.
fn state(name: &str, what: &str) -> Result<String> {
    let format = format!("{{{{.State.{what}}}}}");
    Ok(docker(&["inspect", "-f", &format, name]).run()?.ok()?.stdout_text().trim().to_owned())
}
