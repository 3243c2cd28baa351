//! Runs scenarios one after the other: each in a process group of its own that its time limit can end, each followed
//! by the undo list and the leak check.

use crate::containerd_log::{self, Mark};
use crate::ctx::{Ctx, Runtime, WORK};
use crate::leaks::Snapshot;
use crate::scenario::{Outcome, Scenario};
use crate::wait::until;
use crate::{mop, scenarios, undo};
use anyhow::{Context, Result, anyhow};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// The exit status of a scenario's process that says "skipped".
const SKIPPED: u8 = 77;
/// For what ends a moment after its container: the shim, its socket, its cgroup.
const GRACE: Duration = Duration::from_secs(8);
/// Lines of the transcript and of the log that a failure shows.
const TAIL: usize = 40;

/// Begins a line of a transcript that is shown also when the scenario passed: what it tried, and what came of it.
const TRIED: &str = "tried: ";

enum Verdict {
    Passed { transcript: String },
    Skipped(String),
    Failed { reason: String, transcript: String },
}

/// Runs the chosen scenarios and says how it went.
pub fn run(chosen: &[&Scenario], runtime: Runtime, fail_fast: bool) -> Result<ExitCode> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "the scenarios change the machine: run them as root in the box"
    );
    anyhow::ensure!(!chosen.is_empty(), "no scenario has such a name; `krun-scenarios list` shows them");
    undo::run_all().context("put back what an earlier run changed")?;
    let begun = Instant::now();
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), Vec::new());
    let images =
        Command::new("ctr").args(["image", "ls", "-q"]).output().context("ask containerd for its images")?;
    let images = String::from_utf8_lossy(&images.stdout).into_owned();
    let (mut before, mut tries) = (Snapshot::take()?, 0);
    for scenario in chosen {
        let (mark, started) = (containerd_log::mark(), Instant::now());
        let verdict = match scenario.krun_only {
            Some(why) if runtime == Runtime::Runc => Verdict::Skipped(format!("krun only: {why}")),
            _ if !images.lines().any(|i| i == scenario.image) => {
                Verdict::Skipped(format!("the box has no image {}", scenario.image))
            }
            _ if scenario.needs.is_some_and(|program| !is_installed(program)) => Verdict::Skipped(format!(
                "the box has no {}: `hack/box up --tools` puts it there",
                scenario.needs.unwrap_or_default()
            )),
            _ => attempt_twice(scenario, runtime, &mut before, &mut tries)?,
        };
        let seconds = started.elapsed().as_secs_f64();
        match verdict {
            Verdict::Passed { transcript } => {
                println!("{:<28} passed   {seconds:6.1} s", scenario.name);
                show_tried(&transcript);
                passed += 1;
            }
            Verdict::Skipped(why) => {
                println!("{:<28} skipped  {seconds:6.1} s  {why}", scenario.name);
                skipped.push((scenario.name, why));
            }
            Verdict::Failed { reason, transcript } => {
                println!("{:<28} FAILED   {seconds:6.1} s", scenario.name);
                show_tried(&transcript);
                explain(&reason, &transcript, mark);
                failed.push((scenario.name, reason));
            }
        }
        std::io::stdout().flush()?;
        if fail_fast && !failed.is_empty() {
            break;
        }
    }
    println!(
        "\n{} scenarios with {} in {:.0} s",
        chosen.len(),
        runtime.shim(),
        begun.elapsed().as_secs_f64()
    );
    for (name, why) in &skipped {
        println!("  skipped  {name:<26}  {why}");
    }
    for (name, reason) in &failed {
        println!("  FAILED   {name:<26}  {}", reason.lines().next().unwrap_or_default());
    }
    println!("{passed} passed, {} failed, {} skipped", failed.len(), skipped.len());
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

fn show_tried(transcript: &str) {
    for line in transcript.lines().filter_map(|line| line.strip_prefix(TRIED)) {
        println!("  {line}");
    }
}

fn explain(reason: &str, transcript: &str, mark: Mark) {
    let last = |lines: &[&str]| lines[lines.len().saturating_sub(TAIL)..].join("\n    ");
    println!("  reason: {}", reason.replace('\n', "\n    "));
    println!("  commands:\n    {}", last(&transcript.lines().collect::<Vec<_>>()));
    match mark.tail(TAIL) {
        Ok(lines) => println!("  log:\n    {}", lines.join("\n    ")),
        Err(e) => println!("  log: {e:#}"),
    }
}

/// What libkrun logs when a guest's CPU triple-faulted, and what the shim says of a VM that ended so, or whose guest's kernel
/// came as far as to panic.
const FAULTS: [&str; 2] = ["Received KVM_EXIT_SHUTDOWN", "its kernel panicked or its PID 1 died"];
/// What a failure says when somebody lost patience.
const HUNG: [&str; 3] = ["still waiting for", "timed out after", SILENT];
/// What the shim says of a guest that is too slow, to boot or to answer a call.
const SILENT: &str = "the guest did not answer";
/// How many scenarios of a run may be tried again for that. More are no accident.
const SECOND_TRIES: usize = 1;

/// Whether this box's KVM is QEMU's emulation, as `hack/box` tells its kernel.
fn is_emulated() -> Result<bool> {
    let line = std::fs::read_to_string("/proc/cmdline").context("read the kernel's command line")?;
    Ok(["box.accel=tcg", "box.accel=icount"]
        .iter()
        .any(|emulated| line.split_whitespace().any(|word| word == *emulated)))
}

/// Once more when the first failed with a guest that faulted or hung, which emulated nested virtualisation may make of one
/// (docs/testing.md). It is told, and a second time it is a failure.
fn attempt_twice(
    scenario: &Scenario,
    runtime: Runtime,
    before: &mut Snapshot,
    tries: &mut usize,
) -> Result<Verdict> {
    let mark = containerd_log::mark();
    let first = attempt(scenario, runtime, before)?;
    let Verdict::Failed { reason, .. } = &first else { return Ok(first) };
    if runtime == Runtime::Runc || !is_emulated()? {
        return Ok(first);
    }
    let hung = HUNG.iter().any(|words| reason.contains(words)) || mark.line_with(&[SILENT])?.is_some();
    let mut faulted = hung || FAULTS.iter().any(|words| reason.contains(words));
    for words in FAULTS {
        faulted = faulted || mark.line_with(&[words])?.is_some();
    }
    if !faulted || *tries == SECOND_TRIES {
        return Ok(first);
    }
    *tries += 1;
    let reason = reason.lines().next().unwrap_or_default();
    println!("{:<28} again: a guest faulted or hung; {reason}", scenario.name);
    std::io::stdout().flush()?;
    attempt(scenario, runtime, before)
}

/// One scenario with what goes before and after it. `before` becomes what the next one begins with.
fn attempt(scenario: &Scenario, runtime: Runtime, before: &mut Snapshot) -> Result<Verdict> {
    std::fs::create_dir_all(WORK).with_context(|| format!("make {WORK}"))?;
    let (verdict, transcript) = in_own_process(scenario, runtime)?;
    let mut problems = Vec::new();
    if let Err(e) = undo::run_all() {
        problems.push(format!("{e:#}"));
    }
    std::fs::remove_dir_all(WORK).with_context(|| format!("empty {WORK}"))?;
    if verdict.is_ok() {
        problems.extend(settled_differences(before).unwrap_or_else(|e| vec![format!("{e:#}")]));
    }
    if verdict.is_err() || !problems.is_empty() {
        mop::up(before)?;
        *before = Snapshot::take()?;
    }
    Ok(match verdict {
        Err(e) => {
            problems.insert(0, format!("{e:#}"));
            Verdict::Failed { reason: problems.join("\n"), transcript }
        }
        Ok(_) if !problems.is_empty() => Verdict::Failed { reason: problems.join("\n"), transcript },
        Ok(Outcome::Passed) => Verdict::Passed { transcript },
        Ok(Outcome::Skipped(why)) => Verdict::Skipped(why),
    })
}

/// The differences that are still there when everything has had its time to end.
fn settled_differences(before: &Snapshot) -> Result<Vec<String>> {
    let mut last = Vec::new();
    let settled = until("a clean box", GRACE, || {
        last = before.differences(&Snapshot::take()?);
        Ok(last.is_empty().then_some(()))
    });
    match settled {
        Ok(()) => Ok(Vec::new()),
        Err(e) if last.is_empty() => Err(e),
        Err(_) => Ok(last),
    }
}

/// Starts this program again for the one scenario; gives its outcome and its transcript.
fn in_own_process(scenario: &Scenario, runtime: Runtime) -> Result<(Result<Outcome>, String)> {
    let name = clap::ValueEnum::to_possible_value(&runtime).context("a runtime has a name")?;
    let mut child = Command::new("/proc/self/exe")
        .args(["one", scenario.name, "--runtime", name.get_name()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("start the scenario's process")?;
    let transcript = reader(child.stdout.take().context("stdout is piped")?);
    let message = reader(child.stderr.take().context("stderr is piped")?);
    let ended = until(&format!("the end of {}", scenario.name), scenario.timeout, || Ok(child.try_wait()?));
    // What the scenario started and did not wait for goes with it; with its own end the group may be empty.
    let _ =
        nix::sys::signal::killpg(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::SIGKILL);
    let status = child.wait().context("wait for the scenario's process")?;
    let join = |t: std::thread::JoinHandle<String>| t.join().map_err(|_| anyhow!("a reader panicked"));
    let (transcript, message) = (join(transcript)?, join(message)?);
    let outcome = match (ended, status.code()) {
        (Err(_), _) => Err(anyhow!("timed out after {} s; {message}", scenario.timeout.as_secs())),
        (_, Some(0)) => Ok(Outcome::Passed),
        (_, Some(code)) if code == i32::from(SKIPPED) => Ok(Outcome::Skipped(message.trim().to_owned())),
        _ => Err(anyhow!("{}", message.trim())),
    };
    Ok((outcome, transcript))
}

fn reader(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Runs one scenario in this process: the reason for a failure or a skip goes to stderr.
pub fn one(name: &str, runtime: Runtime) -> Result<ExitCode> {
    let scenario = scenarios::ALL
        .iter()
        .flat_map(|t| t.iter())
        .find(|s| s.name == name)
        .with_context(|| format!("no {name}"))?;
    Ok(match (scenario.run)(&Ctx::new(runtime, scenario.name)) {
        Ok(Outcome::Passed) => ExitCode::SUCCESS,
        Ok(Outcome::Skipped(why)) => {
            eprintln!("{why}");
            ExitCode::from(SKIPPED)
        }
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    })
}
