//! Docker with the runtime: what people do with `docker` and `docker compose`. dockerd is the scenario's own, on the box's containerd.

mod compose;
mod daemon;
mod network;
mod run;

use crate::client::DOCKER;
use crate::command::Cmd;
use crate::scenario::Scenario;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("docker-run", run::with_flags).needs("dockerd").timeout(400),
    Scenario::new("docker-background", run::background).needs("dockerd").timeout(400),
    Scenario::new("docker-restart", run::restart).needs("dockerd").timeout(500),
    Scenario::new("docker-network", network::network).needs("dockerd").timeout(400),
    Scenario::new("docker-compose", compose::compose).needs("dockerd").timeout(600),
];

/// `docker ARGS…`
fn docker(args: &[&str]) -> Cmd {
    DOCKER.cmd(args)
}
