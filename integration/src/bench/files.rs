//! Operations on files in a container's root, an overlay, and in a volume, a directory of the box. The container measures
//! by its own clock (`integration/runtimetest/src/files.rs`), which a guest has from the box.

use super::table::{Table, Unit};
use crate::ctx::{BUSYBOX, Ctx, RUNTIMETEST, Runtime};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

/// The volume, on the disk that has the snapshots as well.
const VOLUME: &str = "/var/lib/krun-scenarios-bench";
/// What asks for a root on a block device.
const BLOCK: &str = "io.containerd.krun.rootfs=block";
/// Seconds for one container, by the box's clock; it takes 3.
const PATIENCE: u64 = 30;

/// ext4 without a journal, which the box has, reads every inode that was removed in the last minutes before it takes one
/// that is free: after another container, to make a file would take seven times as long. The box's clock skips the time in
/// which nothing runs. Source: fs/ext4/ialloc.c, `recently_deleted`, RECENTCY_MIN and RECENTCY_DIRTY.
const FORGETS: Duration = Duration::from_secs(60 + 300 + 1);

/// A column, the runtime, and the annotation that the container has.
type Variant = (&'static str, Runtime, Option<&'static str>);

const RUNC: Variant = ("runc", Runtime::Runc, None);
const KRUN: Variant = ("krun", Runtime::Krun, None);
const KRUN_BLOCK: Variant = ("krun, block root", Runtime::Krun, Some(BLOCK));

/// One container for each column and run, and before that one that is thrown away. `block` adds a column.
pub fn run(runs: u32, block: bool) -> Result<ExitCode> {
    if block {
        print!("{}", compare(runs, [RUNC, KRUN, KRUN_BLOCK])?);
    } else {
        print!("{}", compare(runs, [RUNC, KRUN])?);
    }
    Ok(ExitCode::SUCCESS)
}

fn compare<const N: usize>(runs: u32, variants: [Variant; N]) -> Result<Table<N>> {
    let mut rows: Vec<(String, [Vec<f64>; N])> = Vec::new();
    for round in 0..=runs {
        for (column, variant) in variants.iter().enumerate() {
            let measured = one(variant).with_context(|| variant.0)?;
            if rows.is_empty() {
                rows = measured.iter().map(|(name, _)| (name.clone(), [const { Vec::new() }; N])).collect();
            }
            let same = measured.iter().map(|m| &m.0).eq(rows.iter().map(|row| &row.0));
            ensure!(same, "{} measured something else: {measured:?}", variant.0);
            for ((_, values), (_, value)) in rows.iter_mut().zip(&measured) {
                values[column].extend((round > 0).then_some(value));
            }
        }
        eprintln!("bench: {round} of {runs} done");
    }
    let mut table = Table::new(&format!("{runs} runs"), variants.map(|v| v.0)).with_ratios();
    for (name, values) in &rows {
        table.row(name, Unit::Microseconds, values.each_ref().map(Vec::as_slice));
    }
    Ok(table)
}

/// What one container measures. It leaves its files to us.
fn one(&(_, runtime, annotation): &Variant) -> Result<Vec<(String, f64)>> {
    let ctx = Ctx::new(runtime, "bench");
    fs::create_dir(VOLUME).with_context(|| format!("make {VOLUME}"))?;
    // What the last one wrote is not to be written while this one measures.
    nix::unistd::sync();
    std::thread::sleep(FORGETS);
    let program = format!("type=bind,src={RUNTIMETEST},dst=/measure,options=rbind:ro");
    let volume = format!("type=bind,src={VOLUME},dst=/volume,options=rbind:rw");
    let mut flags = vec!["--rm", "--mount", &program, "--mount", &volume];
    flags.extend(annotation.iter().flat_map(|annotation| ["--annotation", annotation]));
    let args = ["/measure", "files", "rootfs=/", "volume=/volume"];
    let ended = ctx.run(&flags, BUSYBOX, &ctx.id("files"), &args).timeout(PATIENCE).run();
    fs::remove_dir_all(VOLUME).with_context(|| format!("remove {VOLUME}"))?;
    parse(&ended?.ok()?.stdout_text())
}

/// The lines `NAME MICROSECONDS`, as seconds. The last is `end`, so that none is missing.
fn parse(text: &str) -> Result<Vec<(String, f64)>> {
    let Some(lines) = text.strip_suffix("end\n") else { bail!("no end: {text:?}") };
    let number = |line: &str| {
        let (name, micros) = line.rsplit_once(' ')?;
        let micros: f64 = micros.parse().ok()?;
        (!name.is_empty() && micros.is_finite() && micros > 0.0).then(|| (name.to_owned(), micros / 1e6))
    };
    let numbers: Result<Vec<_>> =
        lines.lines().map(|line| number(line).with_context(|| format!("what is this: {line:?}"))).collect();
    numbers.and_then(|numbers| if numbers.is_empty() { bail!("nothing measured") } else { Ok(numbers) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_and_microseconds() {
        let parsed = parse("rootfs: write 16 MiB 1500.000\nvolume: stat 2.5\nend\n").unwrap();
        let expected = [("rootfs: write 16 MiB".to_owned(), 1.5e-3), ("volume: stat".to_owned(), 2.5e-6)];
        assert_eq!(parsed, expected);
    }

    #[test]
    fn whatever_else_comes_is_an_error() {
        for text in [
            "",
            "end\n",
            "stat 1.0\n",
            "stat 1.0\nen",
            "stat\nend\n",
            "stat 0.0\nend\n",
            "stat NaN\nend\n",
            "stat 1\n\nend\n",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
