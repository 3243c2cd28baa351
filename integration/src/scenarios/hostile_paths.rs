//! A container that can write what leads to its own volumes: it swaps them for links, and gains nothing.

use crate::command::Cmd;
use crate::ctx::{Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use crate::undo;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("hostile-paths-followed-volume", followed_volume),
    Scenario::new("hostile-paths-forwarded-socket", forwarded_socket)
        .image(DEBIAN)
        .krun_only("runc binds the socket itself"),
];

/// A directory of the host's that is also a mount there.
const PRIZE: &str = "/run";

/// The container moves the source of its following volume away and leaves a link to the host's root. Mounts of the host's
/// then neither appear nor get written to; those below the directory itself go on to appear, wherever it is.
fn followed_volume(ctx: &Ctx) -> Result<Outcome> {
    let parent = ctx.work("parent");
    let (source, moved, elsewhere) = (parent.join("v"), parent.join("w"), ctx.work("elsewhere"));
    for dir in [&source.join("later"), &elsewhere] {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    let id = ctx.id("");
    let volume = |source: &Path, target: &str, options: &str| {
        format!("type=bind,src={},dst={target},options=rbind:{options}", source.display())
    };
    let volumes = [volume(&parent, "/p", "rprivate:rw"), volume(&source, "/v", "rslave:rw")];
    let flags: Vec<_> = volumes.iter().flat_map(|volume| ["--mount", volume]).collect();
    let script = format!(
        "mkdir -p /v{PRIZE} && mv /p/v /p/w && ln -s / /p/v && echo swapped
         until [ -e /v/later/file ]; do sleep 0.2; done; echo followed; sleep 1000"
    );
    let mut running = ctx.sh(&flags, &id, &script).timeout(200).spawn()?;
    running.wait_for_stdout("swapped")?;
    mount(&elsewhere)?;
    let mark = format!("{PRIZE}/{id}-was-here");
    undo::remember(&["rm", "-f", &mark])?;
    // A guest keeps names for 5 s (docs/limitations.md), and may see only then what was mounted meanwhile.
    let attempt = format!("for i in 1 2 3 4 5 6 7 8; do ls /v{PRIZE}; touch /v{mark}; ls /v; sleep 1; done");
    let seen = ctx.ctr(&["task", "exec", "--exec-id", "try", &id, "sh", "-c", &attempt]).run()?.ok()?;
    ensure!(!Path::new(&mark).exists(), "the container wrote the host's {PRIZE}: {seen}");
    ensure!(!seen.stdout_text().contains("containerd"), "the container reads the host's {PRIZE}: {seen}");
    // What is mounted where the volume really is appears: it is followed, not given up.
    let later = moved.join("later");
    mount(&later)?;
    fs::write(later.join("file"), "").context("write a file")?;
    running.wait_for_stdout("followed")?;
    ctx.kill(&id, "SIGKILL")?.ok()?;
    running.finish()?;
    Ok(Outcome::Passed)
}

/// The container puts links to another socket where its forwarded one is, and where the directory of it was.
fn forwarded_socket(ctx: &Ctx) -> Result<Outcome> {
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

fn mount(target: &Path) -> Result<()> {
    let target = target.display().to_string();
    undo::remember(&["umount", &target])?;
    Cmd::new(&["mount", "-t", "tmpfs", "tmpfs", &target]).run()?.ok()?;
    Ok(())
}
