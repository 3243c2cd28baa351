//! krunctl on a terminal: a shell in a VM is as one on this host.

use crate::command::{Cmd, Running};
use crate::ctx::Ctx;
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::symlink;

use super::krunctl::WHY;

pub const SCENARIOS: &[Scenario] = &[Scenario::new("krunctl-terminal", terminal).krun_only(WHY)];

/// Runs krunctl on a terminal that `script` gives it. What follows says whether the terminal's settings are as before.
fn on_a_terminal(words: &str) -> Result<Running> {
    let command = format!(
        "tty; stty rows 30 cols 100; before=$(stty -g); krunctl {words}; status=$?
         [ \"$(stty -g)\" = \"$before\" ] && echo as before; exit $status"
    );
    Cmd::new(&["script", "-qec", &command, "/dev/null"]).hold_stdin().timeout(180).spawn()
}

/// Types each answer once the words before it were printed, after those of the line before. `seen` is how much was printed by then.
fn talk(shell: &mut Running, seen: &mut usize, dialogue: &[(&str, &str)]) -> Result<()> {
    for (words, answer) in dialogue {
        *seen = shell.wait_for_stdout_after(*seen, words)?;
        shell.say(answer)?;
    }
    Ok(())
}

/// Size, resize, Ctrl-C, Ctrl-D, the end's status, and the terminal's settings afterwards.
fn terminal(ctx: &Ctx) -> Result<Outcome> {
    let root = spec::busybox_root(&ctx.work("root"))?;
    for applet in ["stty", "tty"] {
        symlink("busybox", root.join("bin").join(applet)).context("link an applet")?;
    }
    let root = root.display().to_string();
    let mut shell = on_a_terminal(&format!("run -it --root {root} --memory 256 -- /bin/sh"))?;
    let mut seen = 0;
    talk(
        &mut shell,
        &mut seen,
        &[
            ("# ", "tty; stty size; echo one=$?\r"),
            ("one=0", "until [ \"$(stty size)\" = \"41 101\" ]; do sleep 1; done; echo two=$?\r"),
        ],
    )?;
    let printed = String::from_utf8_lossy(&shell.stdout_now()).into_owned();
    let ours = printed.lines().next().context("our terminal")?.trim();
    Cmd::new(&["stty", "-F", ours, "rows", "41", "cols", "101"]).run()?.ok()?;
    talk(
        &mut shell,
        &mut seen,
        &[
            ("two=0", "echo three; sleep 1000\r"),
            ("three\r\n", "\x03"),
            ("^C", "echo four=$?\r"),
            ("four=130", "exit 5\r"),
        ],
    )?;
    let ended = shell.finish()?.expect_status(5)?;
    let said = ended.stdout_text();
    for words in ["/dev/pts/0", "30 100", "as before"] {
        ensure!(said.contains(words), "no {words:?}: {ended}");
    }

    let create = ["krunctl", "create", "--name", "term", "--root", &root, "--memory", "256"];
    Cmd::new(&[&create[..], &["--", "/bin/sleep", "1000"]].concat()).run()?.ok()?;
    crate::undo::remember(&["sh", "-c", "krunctl delete -f term || true"])?;
    Cmd::new(&["krunctl", "start", "term"]).run()?.ok()?;
    // Without a command: a shell. Ctrl-D ends it, once its prompt is there: before, the terminal takes it for a line's end.
    let mut shell = on_a_terminal("exec term")?;
    talk(&mut shell, &mut 0, &[("# ", "stty size; false\r"), ("30 100", ""), ("# ", "\x04")])?;
    let ended = shell.finish()?.expect_status(1)?;
    ensure!(ended.stdout_text().contains("as before"), "the terminal is left raw: {ended}");
    Cmd::new(&["krunctl", "exec", "-t", "term", "--", "true"])
        .run()?
        .expect_status(125)?
        .refused(&["-t", "terminal"])?;
    Cmd::new(&["krunctl", "exec", "term"]).run()?.expect_status(125)?.refused(&["no command", "terminal"])?;
    // What it leaves behind has its output open; it has ended nevertheless.
    Cmd::new(&["krunctl", "exec", "term", "--", "/bin/sh", "-c", "sleep 1000 & echo begun; exit 3"])
        .timeout(60)
        .run()?
        .expect_status(3)?
        .printed("begun\n")?;
    Cmd::new(&["krunctl", "delete", "-f", "term"]).run()?.ok()?;
    Ok(Outcome::Passed)
}
