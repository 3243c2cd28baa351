//! A compose file of three services that wait for each other's health and find each other by name.

use super::daemon::Daemon;
use super::docker;
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::Outcome;
use crate::wait::until_true;
use anyhow::{Context, Result};
use std::fs;
use std::time::Duration;

/// `@R` is the runtime, `@I` the image.
const FILE: &str = r#"
services:
  store:
    image: @I
    runtime: @R
    command: [sh, -c, "sleep 2; mkdir /data; echo kept >/data/file; exec httpd -f -p 80 -h /data"]
    healthcheck: {test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1/file"], interval: 1s, retries: 60}
  app:
    image: @I
    runtime: @R
    depends_on: {store: {condition: service_healthy}}
    command: [sh, -c, "mkdir /www; wget -q -O /www/index.html http://store/file; exec httpd -f -p 80 -h /www"]
    healthcheck: {test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1/"], interval: 1s, retries: 60}
  client:
    image: @I
    runtime: @R
    depends_on: {app: {condition: service_healthy}}
    command: [wget, -q, -O, "-", "http://app/"]
"#;

pub fn compose(ctx: &Ctx) -> Result<Outcome> {
    let daemon = Daemon::start(ctx)?;
    let file = ctx.work("compose.yaml");
    let text = FILE.replace("@R", ctx.runtime.containerd_name()).replace("@I", BUSYBOX);
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let file = file.display().to_string();
    let compose = |words: &[&str]| docker(&[&["compose", "-p", "three", "-f", &file], words].concat());
    compose(&["up", "-d"]).timeout(300).run()?.ok()?;
    until_true("the client's line", Duration::from_secs(60), || {
        Ok(compose(&["logs", "--no-log-prefix", "client"]).run()?.ok()?.stdout_text() == "kept\n")
    })?;
    compose(&["exec", "-T", "app", "cat", "/www/index.html"]).run()?.ok()?.printed("kept\n")?;
    compose(&["down", "-t", "1"]).run()?.ok()?;
    daemon.stop()?;
    Ok(Outcome::Passed)
}
