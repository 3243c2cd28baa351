//! Prometheus itself reads the figures, and its own tool finds no fault in them.

use super::{LISTEN, PATIENCE, page};
use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::Outcome;
use crate::wait::{until, until_true};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// Where Prometheus listens.
const PROMETHEUS: &str = "127.0.0.1:19490";

/// How long Prometheus may take in an emulated box to start and to scrape.
const START: Duration = Duration::from_secs(120);

pub fn prometheus(ctx: &Ctx) -> Result<Outcome> {
    let metrics = Cmd::new(&["krunctl", "metrics", "--listen", LISTEN]).timeout(380).spawn()?;
    until_true("krunctl metrics to answer", PATIENCE, || Ok(page().is_ok()))?;
    let id = ctx.id("");
    ctx.run(&["--detach"], BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    until_true("the sandbox's series", PATIENCE, || Ok(page()?.contains(&id)))?;

    let (_, body) = page()?
        .split_once("\r\n\r\n")
        .map(|(head, body)| (head.to_owned(), body.to_owned()))
        .context("a body")?;
    let lint = Cmd::new(&["promtool", "check", "metrics"]).stdin(body).run()?.ok()?;
    ensure!(lint.stderr_text().is_empty(), "promtool finds: {}", lint.stderr_text());

    let config = ctx.work("prometheus.yml");
    let scrape = format!(
        "global: {{scrape_interval: 2s}}\nscrape_configs:\n- job_name: krun\n  static_configs:\n  - targets: ['{LISTEN}']\n"
    );
    fs::write(&config, scrape).context("write the configuration")?;
    let server = Cmd::new(&[
        "prometheus",
        &format!("--config.file={}", config.display()),
        &format!("--storage.tsdb.path={}", ctx.work("tsdb").display()),
        &format!("--web.listen-address={PROMETHEUS}"),
    ])
    .timeout(380)
    .spawn()?;
    let series = |query: &str| -> Result<Option<Value>> {
        let asked =
            Cmd::new(&["promtool", "query", "instant", "-o", "json", &format!("http://{PROMETHEUS}"), query])
                .run()?;
        // It does not listen yet, or has not scraped.
        let Ok(all) = serde_json::from_str::<Vec<Value>>(&asked.stdout_text()) else { return Ok(None) };
        Ok(all.into_iter().next())
    };
    let query = format!("krun_sandbox_memory_bytes{{sandbox=\"{id}\"}}");
    let found = until("Prometheus to know the sandbox", START, || series(&query))?;
    ensure!(found["value"][1] == "1073741824", "Prometheus has {found}");
    let boots = series("histogram_quantile(1, sum by (le) (krun_boot_duration_seconds_bucket))")?;
    ensure!(boots.is_some(), "Prometheus has no histogram of boots");
    println!("tried: promtool finds nothing; Prometheus has {found}");
    ctx.end(&id)?;
    for program in [server, metrics] {
        program.signal(Signal::SIGTERM)?;
        program.finish()?.ok()?;
    }
    Ok(Outcome::Passed)
}
