//! Measures what people do with many files, in a root of each kind: the figures of docs/performance.md.

use super::BLOCK;
use crate::command::Cmd;
use crate::ctx::{Ctx, DEBIAN, Runtime};
use crate::scenario::Outcome;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::Duration;

/// Each is done so often with each root, in turn; the fastest counts.
const ROUNDS: usize = 3;

/// Wall time for one container in a busy emulated box.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many lines [`SCRIPT`] says.
const LINES: usize = 7;

/// Says what it did, and how many milliseconds it took, by the container's clock.
const SCRIPT: &str = "set -e; mkdir /load; cd /load
    took() { name=$1; shift; began=$(date +%s%N); \"$@\" >/dev/null; echo \"$name $((($(date +%s%N) - began) / 1000000))\"; }
    export HOME=/load; git init -q .
    untar() { tar -xf /tree.tar; sync; }
    took untar untar; took git-add git add -A; took git-status git status --porcelain; took git-status-again git status --porcelain
    took sqlite python3 -c '
import sqlite3
db = sqlite3.connect(\"/load/db\")
db.execute(\"create table t (n integer, text text)\")
for n in range(500):
    db.execute(\"insert into t values (?, ?)\", (n, \"x\" * 100))
    db.commit()
'
    took python-start python3 -c 'import asyncio, email, http.client, json, sqlite3, ssl, unittest'
    took rm rm -rf /load/tree";

/// Untars 2,000 files, lets git look at them, and writes 500 transactions of SQLite.
pub fn load(ctx: &Ctx) -> Result<Outcome> {
    let (tree, archive) = (ctx.work("tree"), ctx.work("tree.tar").display().to_string());
    for n in 0..2000 {
        let directory = tree.join(format!("{}", n % 50));
        fs::create_dir_all(&directory).context("make a directory")?;
        fs::write(directory.join(format!("{n}.c")), format!("{n}\n").repeat(1000)).context("write a file")?;
    }
    let work = ctx.work("").display().to_string();
    Cmd::new(&["tar", "-c", "-f", &archive, "-C", &work, "tree"]).run()?.ok()?;
    let columns = [
        ("runc", Runtime::Runc, None),
        ("virtiofs", Runtime::Krun, None),
        ("block", Runtime::Krun, Some(BLOCK)),
    ];
    let mut best: Vec<(String, [u64; 3])> = Vec::new();
    for _ in 0..ROUNDS {
        for (column, &(_, runtime, flag)) in columns.iter().enumerate() {
            for (name, took) in one(&Ctx::new(runtime, ctx.scenario), &archive, flag)? {
                match best.iter_mut().find(|(row, _)| *row == name) {
                    Some((_, row)) => row[column] = row[column].min(took),
                    None => {
                        best.push((name, [u64::MAX; 3]));
                        best.last_mut().context("a row")?.1[column] = took;
                    }
                }
            }
        }
    }
    println!("tried: fastest of {ROUNDS}, ms: {}", columns.map(|column| column.0).join(" "));
    for (name, row) in best {
        println!("tried: {name}: {}", row.map(|took| took.to_string()).join(" "));
    }
    Ok(Outcome::Passed)
}

fn one(ctx: &Ctx, archive: &str, flag: Option<&str>) -> Result<Vec<(String, u64)>> {
    let file = |source: &str, at: &str| format!("--mount=type=bind,src={source},dst={at},options=rbind:ro");
    let mounts = [file(archive, "/tree.tar"), file("/usr/bin/git", "/usr/bin/git")];
    let mut flags = vec!["--rm"];
    flags.extend(mounts.iter().map(String::as_str).chain(flag));
    let command = ctx.run(&flags, DEBIAN, &ctx.id(""), &["bash", "-c", SCRIPT]);
    let said = command.timeout(PATIENCE.as_secs()).run()?.ok()?.stdout_text();
    ensure!(said.lines().count() == LINES, "it says {said:?}");
    said.lines()
        .map(|line| {
            let (name, took) =
                line.split_once(' ').with_context(|| format!("{line:?} is not NAME MILLISECONDS"))?;
            Ok((name.to_owned(), took.parse().with_context(|| format!("{line:?} is not NAME MILLISECONDS"))?))
        })
        .collect()
}
