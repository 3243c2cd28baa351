//! `krunctl sh`: a script's lines as commands in one VM, whose root is the box's and cannot be changed.

use crate::command::{Cmd, Output};
use crate::ctx::Ctx;
use crate::host;
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::krunctl::WHY;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("krunctl-sh", examples).krun_only(WHY),
    Scenario::new("krunctl-sh-lines", lines).long().krun_only(WHY),
    Scenario::new("krunctl-sh-host", host_is_unchanged).long().krun_only(WHY),
    Scenario::new("krunctl-sh-signals", signals).long().krun_only(WHY),
    Scenario::new("krunctl-sh-refusals", refusals).long().krun_only(WHY),
];

/// Larger than an argument can be: MAX_ARG_STRLEN of linux/binfmts.h is 128 KiB.
const LONG: usize = 1_000_000;

fn sh(flags: &[&str], script: impl Into<Vec<u8>>) -> Result<Output> {
    Cmd::new(&[&["krunctl", "sh"], flags].concat()).stdin(script).run()
}

/// Comments and blank lines are skipped, output streams, and the first failure ends it or does not.
fn examples(ctx: &Ctx) -> Result<Outcome> {
    let kernel = host::libkrunfw_kernel()?;
    sh(&[], "echo hello\nuname -r\n# comment\n\nwhoami\n")?
        .ok()?
        .printed(&format!("hello\n{kernel}\nroot\n"))?;

    let failing = "echo one\nexit 7\necho two; kill -TERM $$\necho three";
    let stopped = sh(&["-v"], failing)?.expect_status(7)?.printed("one\n")?;
    ensure!(stopped.stderr_text() == "+ echo one\n+ exit 7\n", "{stopped}");
    sh(&["--keep-going"], failing)?.expect_status(128 + 15)?.printed("one\ntwo\nthree\n")?;

    let file = ctx.work("script");
    fs::write(&file, "import os; print(os.environ['A'], os.environ['B'], os.getcwd())\n").context("write")?;
    let file = file.display().to_string();
    sh(&["--shell", "python3", "-e", "A=a b", "-e", "B=", &file], "")?.ok()?.printed("a b  /\n")?;

    // A line runs when it is there, and what it prints comes at once; /run and background processes stay.
    let mut running = Cmd::new(&["krunctl", "sh"]).hold_stdin().spawn()?;
    running.say("echo first; echo x >/run/kept; sleep 1000 &\n")?;
    running.wait_for_stdout("first\n")?;
    running.say("echo second $(cat /run/kept); sleep 1000\n")?;
    running.wait_for_stdout("second x\n")?;
    running.signal(Signal::SIGINT)?;
    running.finish()?.expect_status(128 + 2)?.printed("first\nsecond x\n")?;
    Ok(Outcome::Passed)
}

/// Long lines, quotes and any bytes arrive as they are; commands have an empty standard input.
fn lines(_ctx: &Ctx) -> Result<Outcome> {
    let long = |length| [b"printf %s '".as_slice(), &b"y".repeat(length), b"' | wc -c\n"].concat();
    let bytes = b"\xff\xfe \xc3\xa4 \xf0\x9f\xa6\x80 \x80  \"$HOME\" \\ `x` # %s".as_slice();
    let script = [
        &long(LONG)[..],
        b"cat; echo \"status $?\"; read x || echo empty\n",
        &[b"printf '%s|' '", bytes, b"' \"it's\"; echo 'a  #b' # c\n"].concat(),
    ];
    let output = sh(&[], script.concat())?.ok()?;
    let expected = format!("{LONG}\nstatus 0\nempty\n");
    ensure!(output.stdout == [expected.as_bytes(), bytes, b"|it's|a  #b\n"].concat(), "{output}");
    // bash reads a byte at a time, which takes long in an emulated box.
    sh(&["--shell", "/bin/bash"], long(LONG / 5))?.ok()?.printed(&format!("{}\n", LONG / 5))?;

    // More output than may be on the way at once.
    let much = sh(&[], "head -c 3000000 /dev/zero\nhead -c 1000000 /dev/zero >&2")?.ok()?;
    ensure!((much.stdout.len(), much.stderr.len()) == (3_000_000, 1_000_000), "{} bytes", much.stdout.len());
    Ok(Outcome::Passed)
}

/// What a command does to its root ends with the VM: the box's files, and those of a `--root`, stay.
fn host_is_unchanged(ctx: &Ctx) -> Result<Outcome> {
    let doc = count("/usr/share/doc")?;
    let before = fs::read("/etc/passwd").context("read /etc/passwd")?;
    sh(
        &[],
        "touch /etc/x && ls /etc/x\n\
         echo y >>/etc/passwd; chmod 600 /etc/hosts; ln /etc/hosts /etc/y; mv /usr/share/keyrings /usr/share/moved\n\
         rm -rf /usr/share/doc; ls /usr/share/doc 2>/dev/null || echo gone\n\
         tail -n 1 /etc/passwd; test -e /etc/y && stat -c %a /etc/hosts\n",
    )?
    .ok()?
    .printed("/etc/x\ngone\ny\n600\n")?;
    ensure!(count("/usr/share/doc")? == doc, "files of /usr/share/doc are gone");
    ensure!(fs::read("/etc/passwd")? == before, "/etc/passwd is another");
    for new in ["/etc/x", "/etc/y", "/usr/share/moved"] {
        ensure!(!Path::new(new).exists(), "{new} is there");
    }
    ensure!(Path::new("/usr/share/keyrings").exists(), "/usr/share/keyrings is gone");

    let root = spec::busybox_root(&ctx.work("root"))?;
    let sub = root.join("sub");
    fs::create_dir(&sub).context("make a directory")?;
    crate::undo::remember(&["umount", &sub.display().to_string()])?;
    Cmd::new(&["mount", "-t", "tmpfs", "sub", &sub.display().to_string()]).run()?.ok()?;
    fs::write(sub.join("file"), "kept\n").context("write")?;
    let script = "cat /sub/file; echo new >/sub/file; cat /sub/file; echo x >/sub/x; rm /bin/cat; echo x >/x\nls /x /sub";
    sh(&["--root", &root.display().to_string()], script)?
        .ok()?
        .printed("kept\nnew\n/x\n\n/sub:\nfile\nx\n")?;
    ensure!(fs::read_to_string(sub.join("file"))? == "kept\n", "the file below a mount has changed");
    ensure!(root.join("bin/cat").exists() && !root.join("x").exists() && !sub.join("x").exists(), "changed");

    // The layer is as large as the VM's memory: what does not fit is refused, and the box does not notice.
    let full = sh(&["--memory", "128"], "dd if=/dev/zero of=/etc/big bs=1M count=200")?;
    ensure!(full.status == 1 && full.stderr_text().contains("No space left"), "{full}");
    Ok(Outcome::Passed)
}

fn count(directory: &str) -> Result<usize> {
    Ok(fs::read_dir(directory).with_context(|| format!("read {directory}"))?.count())
}

/// SIGTERM reaches the command, which may still say something, and ends the run; SIGKILL leaves an empty directory at most,
/// which the next run removes.
fn signals(_ctx: &Ctx) -> Result<Outcome> {
    let mut running = Cmd::new(&["krunctl", "sh", "--keep-going"])
        .stdin("trap 'echo bye; exit 3' TERM; echo up; sleep 1000 & wait\necho not this\n")
        .spawn()?;
    running.wait_for_stdout("up\n")?;
    running.signal(Signal::SIGTERM)?;
    running.finish()?.expect_status(128 + 15)?.printed("up\nbye\n")?;

    // While it waits for a line.
    let mut running = Cmd::new(&["krunctl", "sh"]).hold_stdin().spawn()?;
    running.say("echo up\n")?;
    running.wait_for_stdout("up\n")?;
    running.signal(Signal::SIGTERM)?;
    until_true("its end", Duration::from_secs(30), || running.is_over())?;
    running.finish()?.expect_status(128 + 15)?;

    // A command that does not heed the first signal ends with the second.
    let stubborn = "trap '' INT; trap 'echo heard' TERM; echo up; while :; do sleep 1; done";
    let mut running = Cmd::new(&["krunctl", "sh"]).stdin(stubborn).spawn()?;
    running.wait_for_stdout("up\n")?;
    running.signal(Signal::SIGTERM)?;
    running.wait_for_stdout("heard\n")?;
    running.signal(Signal::SIGINT)?;
    running.finish()?.expect_status(128 + 15)?;

    let mut running = Cmd::new(&["krunctl", "sh"]).stdin("echo up; sleep 1000").spawn()?;
    running.wait_for_stdout("up\n")?;
    running.signal(Signal::SIGKILL)?;
    running.finish()?.expect_status(128 + 9)?;
    sh(&[], "true")?.ok()?;
    Ok(Outcome::Passed)
}

/// What is wrong is said, with status 125, and nothing was run.
fn refusals(ctx: &Ctx) -> Result<Outcome> {
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    let cases: [(&[&str], &[&str]); 12] = [
        (&["--memory", "64"], &["64", "128"]),
        (&["--memory", "99999999"], &["99999999", "128"]),
        (&["--memory", "much"], &["--memory", "much", "MiB"]),
        (&["--cpus", "0"], &["--cpus", "0", "16"]),
        (&["--cpus", "17"], &["--cpus", "17", "16"]),
        (&["-e", "=x"], &["=x", "KEY=VAL"]),
        (&["--root", "/etc/passwd"], &["--root /etc/passwd", "not a directory"]),
        (&["--root", "/no/such/root"], &["--root /no/such/root"]),
        (&["--shell", "/no/such/shell"], &["--shell /no/such/shell"]),
        (&["--root", &root, "--shell", "bash"], &["--shell bash", &root]),
        (&["/no/such/script"], &["/no/such/script"]),
        (&["/etc"], &["/etc", "directory"]),
    ];
    for (flags, words) in cases {
        sh(flags, "echo ran")?.expect_status(125)?.printed("")?.refused(words)?;
    }
    // A shell that a command has removed is no usage error.
    sh(&["--keep-going"], "rm /bin/sh\necho two\n")?
        .expect_status(127)?
        .printed("")?
        .refused(&["/bin/sh"])?;
    let long = [b"echo one\necho ".as_slice(), &b"x".repeat(17 << 20)].concat();
    sh(&[], long)?.expect_status(125)?.refused(&["standard input, line 2", "16777216"])?;
    host::hide(Path::new("/dev/kvm"))?;
    sh(&[], "echo ran")?.expect_status(125)?.printed("")?.refused(&["/dev/kvm"])?;
    Ok(Outcome::Passed)
}
