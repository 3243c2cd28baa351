//! Forwarded sockets: what a container dials is the server that it was given, or nothing.

use super::{Prize, bind_of, in_the_middle_of_create};
use crate::ctx::{Ctx, DEBIAN};
use crate::scenario::Outcome;
use crate::spec;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

/// The container puts links to another socket where its forwarded one is, and where the directory of it was.
pub fn running(ctx: &Ctx) -> Result<Outcome> {
    let parent = ctx.work("parent");
    for dir in ["run", "secret"] {
        fs::create_dir_all(parent.join(dir)).context("make the sockets' directories")?;
    }
    serve(&parent.join("run/server.sock"), "own")?;
    let secret = ctx.work("secret.sock");
    serve(&secret, "secret")?;
    serve(&parent.join("secret/server.sock"), "secret")?;
    let script = format!(
        r#"
import os, socket
SECRET, SOCKET = {secret:?}, "/p/run/server.sock"
def dial(title):
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect("/forwarded.sock")
            print(title, "answers", s.makefile().read())
    except OSError as e:
        print(title, "fails", e)
dial("nothing swapped:")
os.rename("/p/run", "/p/moved")
os.symlink("secret", "/p/run")
dial("directory swapped:")
os.remove("/p/run")
os.rename("/p/moved", "/p/run")
os.rename(SOCKET, "/p/run/kept.sock")
for target in (SECRET, "../secret/server.sock", "kept.sock"):
    os.symlink(target, SOCKET)
    dial("link to %s:" % target)
    os.remove(SOCKET)
open(SOCKET, "w").close()
dial("a file:")
os.remove(SOCKET)
os.rename("/p/run/kept.sock", SOCKET)
dial("put back:")
"#,
        secret = secret.display().to_string()
    );
    let volumes = [(parent.clone(), "/p"), (parent.join("run/server.sock"), "/forwarded.sock")]
        .map(|(source, target)| format!("type=bind,src={},dst={target},options=rbind:rw", source.display()));
    let flags: Vec<_> = volumes.iter().flat_map(|volume| ["--mount", volume]).collect();
    let output = ctx.python(&flags, &ctx.id(""), &script).run()?.ok()?;
    let text = output.stdout_text();
    ensure!(!text.contains("secret\n"), "another server answered: {output}");
    for title in ["nothing swapped:", "directory swapped:", "put back:"] {
        ensure!(
            text.contains(&format!("{title} answers own")),
            "{title} the server does not answer: {output}"
        );
    }
    ensure!(
        text.matches("answers \n").count() + text.matches("fails").count() == 4,
        "four are refused: {output}"
    );
    Ok(Outcome::Passed)
}

/// The host swaps a socket, and the directory of another, when they are resolved and the container has not begun.
pub fn between(ctx: &Ctx) -> Result<Outcome> {
    let prize = Prize::new(ctx)?;
    for (dir, name) in [("one", "own"), ("two", "own"), ("secret", "secret")] {
        let dir = ctx.work(dir);
        fs::create_dir_all(&dir).context("make the sockets' directories")?;
        serve(&dir.join("server.sock"), name)?;
    }
    let script = r#"
import socket
for name in ("one", "two"):
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect("/%s.sock" % name)
            print(name, "answers", s.makefile().read())
    except OSError as e:
        print(name, "fails", e)
"#;
    let id = ctx.id("");
    let mut spec = spec::of_image(ctx, DEBIAN, &id, &["python3", "-c", script])?;
    let mounts = spec["mounts"].as_array_mut().context("mounts")?;
    for name in ["one", "two"] {
        mounts.push(bind_of(&ctx.work(name).join("server.sock"), &format!("/{name}.sock"), "rprivate"));
    }
    let work = ctx.work("");
    spec["hooks"] = in_the_middle_of_create(&format!(
        "cd {}; mv one/server.sock one/kept.sock; ln -s ../secret/server.sock one/server.sock; mv two kept; ln -s secret two",
        work.display()
    ));
    let output = spec::run(ctx, &["--rm"], &spec, &id)?.run()?.ok()?;
    let text = output.stdout_text();
    prize.guarded("a socket and the directory of another, before the start", &text)?;
    ensure!(!text.contains("secret"), "another server answered: {output}");
    ensure!(
        text.contains("two answers own"),
        "the server whose directory was moved does not answer: {output}"
    );
    ensure!(text.contains("one fails") || text.contains("one answers \n"), "a link was dialled: {output}");
    Ok(Outcome::Passed)
}

/// Listens on `path` and tells each client who it is, until this process ends.
fn serve(path: &Path, name: &'static str) -> Result<()> {
    let listener = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            // A client that has gone hears nothing.
            let _ = client.write_all(name.as_bytes());
        }
    });
    Ok(())
}
