//! Annotations: what they set, and the refusal of what they may not say.

use crate::ctx::Ctx;
use crate::scenario::{Outcome, Scenario};
use anyhow::{Context, Result, ensure};

const WHY: &str = "the annotations are krun's";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("annotations", annotations).krun_only(WHY),
    Scenario::new("bad-annotations", bad_annotations).krun_only(WHY),
];

/// Ours and crun's set the VM's size.
fn annotations(ctx: &Ctx) -> Result<Outcome> {
    let flags = ["--annotation", "krun.cpus=2", "--annotation", "io.containerd.krun.memory_mib=300"];
    let output = ctx
        .sh(&flags, &ctx.id(""), "nproc; awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo")
        .run()?;
    let text = output.ok()?.stdout_text();
    let [cpus, memory] = text.lines().collect::<Vec<_>>()[..] else { anyhow::bail!("two lines, not {text}") };
    ensure!(cpus == "2", "krun.cpus=2 gave {cpus}");
    let memory: u64 = memory.parse().context("MemTotal")?;
    // The kernel keeps some for itself, and libkrun gives its image room besides the memory.
    ensure!((200..=330).contains(&memory), "memory_mib=300 gave {memory} MiB");
    Ok(Outcome::Passed)
}

/// Each is refused by name, with what would be allowed.
fn bad_annotations(ctx: &Ctx) -> Result<Outcome> {
    let cases: [(&str, &[&str]); 7] = [
        ("io.containerd.krun.memory_mib=64", &["memory_mib", "64", "128"]),
        ("io.containerd.krun.memory_mib=99999999", &["memory_mib", "99999999", "128"]),
        ("io.containerd.krun.memory_mib=lots", &["memory_mib", "lots"]),
        ("io.containerd.krun.cpus=0", &["cpus", "0", "16"]),
        ("krun.cpus=17", &["krun.cpus", "17", "16"]),
        ("krun.ram_mib=127", &["krun.ram_mib", "127", "128"]),
        ("io.containerd.krun.nonsense=1", &["nonsense", "memory_mib"]),
    ];
    for (i, (annotation, words)) in cases.iter().enumerate() {
        let output = ctx.sh(&["--annotation", annotation], &ctx.id(&i.to_string()), "true").run()?;
        output.refused(words).with_context(|| format!("annotation {annotation}"))?;
    }
    Ok(Outcome::Passed)
}
