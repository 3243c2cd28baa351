//! What a process finds in containers of several sorts, under runc and under krun: a table of all that differs.

use crate::ctx::{Ctx, DEBIAN, Runtime};
use crate::scenario::{Outcome, Scenario};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

pub const SCENARIOS: &[Scenario] =
    &[Scenario::new("parity", parity).image(DEBIAN).long().krun_only("it compares with runc").timeout(600)];

/// Prints what it finds.
const LOOK: &str = include_str!("parity.py");

/// What the page says of differences: each row's first two columns, and why.
const PAGE: &str = include_str!("../../../docs/parity.md");

/// Sorts of containers, by the flags that make them.
const SORTS: [(&str, &[&str]); 6] = [
    ("plain", &[]),
    ("an ordinary user's", &["--user", "1000:1000"]),
    ("limited", &["--memory-limit", "134217728", "--cpus", "0.5", "--rlimit-nofile", "2048"]),
    ("read-only", &["--read-only"]),
    ("privileged", &["--privileged"]),
    ("with a user namespace", &["--uidmap", "0:131072:65536", "--gidmap", "0:131072:65536"]),
];

type Found = BTreeMap<String, String>;

fn look(ctx: &Ctx, name: &str, flags: &[&str]) -> Result<Found> {
    let id = ctx.id(name);
    let output = ctx
        .run(&[&["--rm"], flags].concat(), DEBIAN, &id, &["python3", "-c", LOOK])
        .timeout(120)
        .run()?
        .ok()?;
    let text = output.stdout_text().replace(&id, "ID");
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect())
}

/// Prints a row for each thing that differs, and fails for one that the page does not have.
fn parity(ctx: &Ctx) -> Result<Outcome> {
    super::users::forget_snapshots(ctx)?;
    let mut rows: BTreeMap<(String, String, String), Vec<&str>> = BTreeMap::new();
    let mut same = 0;
    for (number, (sort, flags)) in SORTS.iter().enumerate() {
        let [runc, krun] = [Runtime::Runc, Runtime::Krun].map(|runtime| {
            let ctx = Ctx { runtime, ..*ctx };
            look(&ctx, &format!("{}-{number}", if ctx.krun() { "krun" } else { "runc" }), flags)
                .with_context(|| (*sort).to_owned())
        });
        let (runc, krun) = (runc?, krun?);
        ensure!(runc.len() > 100, "runc's {sort} container says {runc:?}");
        let keys: std::collections::BTreeSet<_> = runc.keys().chain(krun.keys()).collect();
        for key in keys {
            let value = |found: &Found| found.get(key).map_or("–", String::as_str).to_owned();
            let (runc, krun) = (value(&runc), value(&krun));
            if runc == krun {
                same += 1;
            } else {
                rows.entry((key.clone(), runc, krun)).or_default().push(sort);
            }
        }
    }
    println!("tried: | what | runc | krun | in containers |\ntried: |---|---|---|---|");
    let mut unexplained = Vec::new();
    for ((key, runc, krun), sorts) in &rows {
        let sorts = if sorts.len() == SORTS.len() { "all".to_owned() } else { sorts.join(", ") };
        println!("tried: | `{key}` | `{runc}` | `{krun}` | {sorts} |");
        if !is_explained(key) {
            unexplained.push(key);
        }
    }
    println!("tried: {same} things are the same.");
    ensure!(unexplained.is_empty(), "docs/parity.md does not say why these differ: {unexplained:?}");
    Ok(Outcome::Passed)
}

/// Whether a line of the page's list begins with this key, or with one that ends with `*` and begins as it does.
fn is_explained(key: &str) -> bool {
    let keys = PAGE.lines().filter_map(|line| line.strip_prefix("- ")?.split_once(": "));
    let mut keys = keys.flat_map(|(keys, _)| keys.split("`, `")).map(|key| key.trim_matches('`'));
    keys.any(|known| known.strip_suffix('*').map_or(known == key, |start| key.starts_with(start)))
}
