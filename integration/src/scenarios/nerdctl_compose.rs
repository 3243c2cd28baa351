//! A compose file of two services, up and down.

use super::nerdctl::nerdctl;
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[Scenario::new("nerdctl-compose", compose).needs("nerdctl").timeout(400)];

fn compose(ctx: &Ctx) -> Result<Outcome> {
    let file = ctx.work("compose.yaml");
    let service = |name: &str, needs: &str| {
        format!(
            "  {name}:\n    image: {BUSYBOX}\n    runtime: {}\n    network_mode: none\n{needs}    \
             command: [\"sh\", \"-c\", \"echo $$HOSTNAME is up; exec sleep 1000\"]\n    hostname: {name}\n",
            ctx.runtime.containerd_name()
        )
    };
    let text = format!("services:\n{}{}", service("one", ""), service("two", "    depends_on: [one]\n"));
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let file = file.display().to_string();
    let compose = |words: &[&str]| nerdctl(&[&["compose", "-p", "pair", "-f", &file], words].concat());

    compose(&["up", "-d"]).timeout(240).run()?.ok()?;
    let listed = compose(&["ps"]).run()?.ok()?.stdout_text();
    let running = listed.lines().filter(|line| line.contains("running")).count();
    ensure!(running == 2, "nerdctl compose ps lists {running} running services: {listed}");
    until_true("both services in the log", Duration::from_secs(30), || {
        let logs = compose(&["logs", "--no-color"]).run()?.ok()?.stdout_text();
        Ok(["one is up", "two is up"].iter().all(|line| logs.contains(line)))
    })?;
    compose(&["down"]).timeout(120).run()?.ok()?;
    nerdctl(&["ps", "-aq"]).run()?.ok()?.printed("")?;
    Ok(Outcome::Passed)
}
