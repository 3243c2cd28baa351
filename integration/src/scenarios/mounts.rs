//! Mounts below a volume's source: those that are there, and those that come and go while the container runs.

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use crate::undo;
use anyhow::{Context, Result, ensure};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs;
use std::os::unix::net::UnixListener;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("mounts-below-a-volume", below),
    Scenario::new("mounts-of-the-kernels-files", kernels_files),
    Scenario::new("mounts-of-pipes-and-sockets", special_files).image(DEBIAN),
];

/// A volume that is only read, and the same one that follows the host: what each shows and lets happen.
const SCRIPT: &str = "
touch /read/file 2>/dev/null && echo the top is writable
touch /read/there/file && echo what is mounted below it is writable
touch /all/there/file 2>/dev/null && echo what is all read-only is writable
echo ready
until [ -e /follow/later/file ]; do sleep 0.2; done
echo followed
[ -e /read/later/file ] && echo followed where nobody asked
touch /follow/later/written && echo writable
until [ ! -e /follow/later/file ]; do sleep 0.2; done
echo gone
";

fn below(ctx: &Ctx) -> Result<Outcome> {
    let source = ctx.work("source");
    let (there, later) = (source.join("there"), source.join("later"));
    for dir in [&there, &later] {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    let (there, later) = (there.display().to_string(), later.display().to_string());
    // As those who share mounts make their directories: what is mounted below is listed twice then.
    let itself = source.display().to_string();
    undo::remember(&["umount", &itself])?;
    Cmd::new(&["mount", "--bind", &itself, &itself]).run()?.ok()?;
    mount(&there)?;
    let volume = |target: &str, options: &str| {
        format!("type=bind,src={},dst={target},options=rbind:{options}", source.display())
    };
    let volumes =
        [volume("/read", "rprivate:ro"), volume("/all", "rprivate:rro"), volume("/follow", "rslave")];
    let flags: Vec<_> = volumes.iter().flat_map(|volume| ["--mount", volume]).collect();
    let mut running = ctx.sh(&flags, &ctx.id(""), SCRIPT).spawn()?;
    running.wait_for_stdout("ready")?;
    mount(&later)?;
    Cmd::new(&["touch", &format!("{later}/file")]).run()?.ok()?;
    running.wait_for_stdout("followed\nwritable\n")?;
    // The container's mounts are nobody else's: they neither show on the host nor keep its directories busy.
    let table = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    ensure!(!table.contains("/run/krun/"), "the host sees mounts of the share: {table}");
    for dir in [&later, &there] {
        Cmd::new(&["umount", dir]).run()?.ok()?;
        fs::remove_dir(dir).with_context(|| format!("remove {dir} while a container sees a mount on it"))?;
    }
    running
        .finish()?
        .ok()?
        .printed("what is mounted below it is writable\nready\nfollowed\nwritable\ngone\n")?;
    Ok(Outcome::Passed)
}

/// The host's /proc and /sys, as node exporters have them. Their files say that they are empty, and give at most a page at a time.
fn kernels_files(ctx: &Ctx) -> Result<Outcome> {
    // What stays the same: one is longer than a page, and one than what can be read of such a file.
    let same = [
        "proc/crypto",
        "proc/filesystems",
        "proc/version",
        "proc/sys/kernel/ostype",
        "sys/fs/cgroup/cgroup.controllers",
    ];
    let sums =
        same.map(|file| format!("md5sum <$1/{file}; wc -c <$1/{file}; cat $1/{file} | tail -n 1")).join("; ");
    let names = "head -c 1000000 $1/proc/kallsyms | cut -c 17- | md5sum";
    let script = format!("{sums}; {names}; grep -c ^cpu0 $1/proc/stat; ls -d $1/sys/kernel/mm | wc -l");
    let hosts = Cmd::new(&["sh", "-c", &script, "sh", ""]).run()?.ok()?.stdout_text();
    ensure!(hosts.lines().count() > 10, "the host says {hosts:?}");
    let volumes =
        ["proc", "sys"].map(|name| format!("type=bind,src=/{name},dst=/host/{name},options=rbind:ro"));
    let flags: Vec<_> = volumes.iter().flat_map(|volume| ["--mount", volume]).chain(["--rm"]).collect();
    let script = format!("{script}; {MOVES}");
    let args = ["sh", "-c", &script, "sh", "/host"];
    let seen = ctx.run(&flags, BUSYBOX, &ctx.id(""), &args).run()?.ok()?.stdout_text();
    ensure!(seen == format!("{hosts}it moves\n"), "the host has {hosts:?}, and the container sees {seen:?}");
    Ok(Outcome::Passed)
}

/// Pipes, sockets and devices in a volume: a container may look at them, and who waits at a pipe on the host does not notice.
fn special_files(ctx: &Ctx) -> Result<Outcome> {
    let source = ctx.work("source");
    fs::create_dir(&source).context("make a directory")?;
    let _server = UnixListener::bind(source.join("socket")).context("listen")?;
    mkfifo(&source.join("pipe"), Mode::S_IRWXU).context("make a pipe")?;
    Cmd::new(&["mknod", &source.join("device").display().to_string(), "c", "1", "3"]).run()?.ok()?;
    let mut waiting = Cmd::new(&["sh", "-c", &format!("echo text >{}/pipe", source.display())]).spawn()?;
    let volume = format!("type=bind,src={},dst=/data,options=rbind:rw", source.display());
    let script =
        "ls -l /data | cut -c 1; stat -c %F /data/*; chmod 600 /data/pipe; mv /data/pipe /data/moved";
    let seen =
        ctx.run(&["--rm", "--mount", &volume], DEBIAN, &ctx.id(""), &["bash", "-c", script]).run()?.ok()?;
    ensure!(seen.stderr_text().is_empty(), "the container says {}", seen.stderr_text());
    seen.printed("t\nc\np\ns\ncharacter special file\nfifo\nsocket\n")?;
    ensure!(!waiting.is_over()?, "who waited to write into the pipe found a reader");
    let heard = fs::read_to_string(source.join("moved")).context("read from the pipe")?;
    ensure!(heard == "text\n", "the pipe gives {heard:?}");
    waiting.finish()?.ok()?;
    Ok(Outcome::Passed)
}

/// What changes is read anew.
const MOVES: &str = "first=$(cat /host/proc/uptime); while [ \"$first\" = \"$(cat /host/proc/uptime)\" ]; do :; done; echo it moves";

fn mount(target: &str) -> Result<()> {
    undo::remember(&["sh", "-c", &format!("umount {target} 2>/dev/null; true")])?;
    Cmd::new(&["mount", "-t", "tmpfs", "tmpfs", target]).run()?.ok()?;
    Ok(())
}
