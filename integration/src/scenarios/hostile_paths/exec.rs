//! At an exec: the container has swapped what an exec of containerd's reads in its root, and its log is a link.

use super::{AT_ONCE, Prize, answer, fifo, link};
use crate::ctx::Ctx;
use crate::scenario::Outcome;
use anyhow::{Result, ensure};
use std::time::Instant;

pub fn swapped(ctx: &Ctx) -> Result<Outcome> {
    let prize = Prize::new(ctx)?;
    let (dir, magic) = (prize.dir(), prize.magic());
    let id = ctx.id("");
    let script = format!(
        "ln -sf {dir}/of /etc/passwd; rm -f /etc/group; mkfifo /etc/group; ln -s {dir} /w; ln -s {magic} /m
         ln -s ../../../../../../..{dir} /up; ln -s {dir}/of /bin/program; echo ready; sleep 1000"
    );
    let mut running = ctx.sh(&[], &id, &script).spawn()?;
    running.wait_for_stdout("ready")?;
    let exec = |flags: &[&str], args: &[&str]| {
        let head = ["task", "exec", "--exec-id", "e"];
        ctx.ctr(&[&head, flags, &[id.as_str()], args].concat())
    };
    let write = "pwd; cat of below/of /etc/passwd; echo x >of; echo x >new; echo x >/etc/passwd";
    // The links lead nowhere in the guest, which does not have the directory.
    for (what, cwd, word) in [
        ("a link as working directory", "/w", "chdir to cwd"),
        ("a link of /proc as working directory", "/m", "chdir to cwd"),
        ("a link up as working directory", "/up", "chdir to cwd"),
        ("the guest's root as working directory", "/proc/1/root", "can't create /etc/passwd"),
        ("/etc/passwd a link, /etc/group a FIFO", "/", "can't create /etc/passwd"),
    ] {
        let begun = Instant::now();
        let output = exec(&["--cwd", cwd], &["sh", "-c", write]).run()?;
        prize.guarded(what, &answer(&output))?;
        ensure!(answer(&output).contains(word), "{what}: no {word:?} in {output}");
        ensure!(begun.elapsed() < AT_ONCE, "{what}: an answer after {:?}", begun.elapsed());
    }
    prize.refused("a link as program", exec(&[], &["program"]), &["program", "not found"])?;

    let logs = [
        ("an exec's log that is a link", link(ctx, "log", &prize.file())?),
        ("an exec's log that is a link to nothing", link(ctx, "dangling", &format!("{dir}/new"))?),
        ("an exec's log that is a FIFO", fifo(ctx, "fifo")?),
    ];
    for (what, log) in logs {
        let uri = format!("file://{log}");
        let command = exec(&["--log-uri", &uri], &["sh", "-c", "echo written"]);
        prize.refused(what, command, &[&log, "input or output"])?;
    }
    ctx.kill(&id, "SIGKILL")?.ok()?;
    running.finish()?;
    Ok(Outcome::Passed)
}
