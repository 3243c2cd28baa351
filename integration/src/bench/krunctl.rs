//! What krunctl costs, beside runc with as little around it.

use super::{
    table::{Table, Unit},
    timed,
};
use crate::ctx::BUSYBOX;
use crate::spec::busybox_root;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// Where the root and runc's bundle are.
const WORK: &str = "/run/krun-scenarios/bench";

/// The VM for execs.
const NAME: &str = "bench";

/// An image that is in the store.
const IMAGE: &str = "localhost/bench:1";

/// Three commands for a shell.
const SCRIPT: &str = "true\ntrue\ntrue\n";

fn quiet(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Runs everything once unmeasured, then `runs` times, and prints the table.
pub fn run(runs: u32) -> Result<ExitCode> {
    let work = Path::new(WORK);
    fs::create_dir_all(work).context("make a directory")?;
    let root = busybox_root(&work.join("rootfs"))?.display().to_string();
    fs::write(work.join("script"), SCRIPT).context("write a script")?;
    let script = work.join("script").display().to_string();
    describe(work)?;

    timed(&mut quiet(&["krunctl", "create", "--name", NAME, "--root", &root, "--", "/bin/sleep", "100000"]))?;
    timed(&mut quiet(&["krunctl", "start", NAME]))?;
    let archive = work.join("image.tar").display().to_string();
    timed(&mut quiet(&["ctr", "image", "export", &archive, BUSYBOX]))?;
    timed(&mut quiet(&["krunctl", "image", "import", "--name", IMAGE, &archive]))?;
    let cases: [(&str, Command, Option<Command>); 5] = [
        (
            "run … true",
            quiet(&["krunctl", "run", "--root", &root, "--", "/bin/true"]),
            Some(quiet(&["runc", "run", "--bundle", WORK, "bench-runc"])),
        ),
        ("run --image … true", quiet(&["krunctl", "run", "--image", IMAGE, "--", "/bin/true"]), None),
        ("sh, three lines", quiet(&["krunctl", "sh", &script]), None),
        ("exec … true", quiet(&["krunctl", "exec", NAME, "--", "/bin/true"]), None),
        ("--version", quiet(&["krunctl", "--version"]), Some(quiet(&["runc", "--version"]))),
    ];
    let mut table = Table::new(&format!("{runs} runs"), ["runc", "krunctl"]);
    for (what, mut ours, mut runcs) in cases {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..=runs {
            for (command, times) in [runcs.as_mut(), Some(&mut ours)].into_iter().zip(&mut times) {
                let took = command.map(timed).transpose()?;
                times.extend(took.filter(|_| round > 0));
            }
        }
        let [runc, krunctl] = &times;
        table.row(what, Unit::Milliseconds, [runc, krunctl]);
        eprintln!("bench: {what} done");
    }
    timed(&mut quiet(&["krunctl", "delete", "-f", NAME]))?;
    timed(&mut quiet(&["krunctl", "image", "rm", IMAGE]))?;
    timed(&mut quiet(&["krunctl", "image", "prune"]))?;
    print!("{table}");
    Ok(ExitCode::SUCCESS)
}

/// Makes `work` a bundle for runc.
fn describe(work: &Path) -> Result<()> {
    timed(&mut quiet(&["runc", "spec", "--bundle", WORK]))?;
    let path = work.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&path)?).context("what runc spec wrote")?;
    spec["process"]["args"] = json!(["/bin/true"]);
    spec["process"]["terminal"] = json!(false);
    fs::write(&path, serde_json::to_vec(&spec)?).context("write a spec")
}
