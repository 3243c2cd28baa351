//! What people report of VM runtimes, in short scripts that run under both runtimes: output and status are the same.

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx, Runtime};
use crate::scenario::{Outcome, Scenario};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const WHY: &str = "it compares with runc";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("like-runc-directories", directories).krun_only(WHY),
    Scenario::new("like-runc-mounts", mounts).krun_only(WHY),
    Scenario::new("like-runc-terminals", terminals).krun_only(WHY),
    Scenario::new("like-runc-signals", signals).krun_only(WHY),
];

/// A case: its name, `ctr run`'s flags, a script.
type Case<'a> = (&'a str, &'a [&'a str], &'a str);

/// What a case came to.
type Seen = (i32, String);

/// Runs the cases under both runtimes, each with a directory of its own at /data.
fn compare(ctx: &Ctx, cases: &[Case], look: impl Fn(&Path) -> Result<String>) -> Result<()> {
    for (name, flags, script) in cases {
        let [runc, krun] = [Runtime::Runc, Runtime::Krun].map(|runtime| -> Result<Seen> {
            let ctx = Ctx { runtime, ..*ctx };
            let data = ctx.work(&format!("{name}-{}", runtime.containerd_name()));
            fs::create_dir_all(&data).context("make a volume")?;
            fs::create_dir_all(data.join("dir/below")).context("make a directory")?;
            for file in ["file", "dir/below/file"] {
                fs::write(data.join(file), "from the host\n").context("fill a volume")?;
            }
            let volumes = ["/data", "/dev/shm"]
                .map(|at| format!("type=bind,src={},dst={at},options=rbind:rw", data.display()));
            let volume = &volumes[usize::from(*name == "shm")];
            let id = ctx.id(if ctx.krun() { "krun" } else { "runc" });
            let output = ctx.sh(&[&["--mount", volume], *flags].concat(), &id, script).run()?;
            let said = format!("{}\n{}", output.stdout_text(), look(&data)?);
            Ok((output.status, said))
        });
        let (runc, krun) = (runc.with_context(|| format!("{name} with runc"))?, krun?);
        ensure!(runc == krun, "{name}: runc gives {runc:?}, and krun {krun:?}");
        println!("tried: {name}: {krun:?}");
    }
    Ok(())
}

/// What is below a directory: paths, modes, owners.
fn tree(directory: &Path) -> Result<String> {
    let mut lines = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).with_context(|| at.display().to_string())?.flatten() {
            let (path, found) = (entry.path(), entry.metadata()?);
            let below = path.strip_prefix(directory)?.display().to_string();
            lines.push(format!("{below} {:o} {}:{}", found.mode(), found.uid(), found.gid()));
            if found.is_dir() {
                left.push(path);
            }
        }
    }
    lines.sort();
    Ok(lines.join(", "))
}

/// A working directory that is not there is made, wherever it is.
fn directories(ctx: &Ctx) -> Result<Outcome> {
    let look = "pwd; stat -c '%a %u %g' . ..";
    let scratch = "type=tmpfs,src=tmpfs,dst=/scratch,options=size=1m";
    compare(
        ctx,
        &[
            ("missing", &["--cwd", "/no/such/directory"], look),
            ("missing for a user", &["--cwd", "/no/such", "--user", "1000:1000"], look),
            ("missing in a volume", &["--cwd", "/data/new/one"], look),
            ("missing in memory", &["--mount", scratch, "--cwd", "/scratch/new"], look),
            ("missing in a read-only root", &["--read-only", "--cwd", "/no/such"], look),
            ("there", &["--cwd", "/bin"], look),
            ("with dots", &["--cwd", "/bin/../new"], look),
        ],
        tree,
    )?;
    for cwd in ["tmp", "bin/.."] {
        ctx.run(&["--rm", "--cwd", cwd], BUSYBOX, &ctx.id("relative"), &["true"])
            .run()?
            .refused(&["absolute"])?;
    }
    // What cannot be made: the image's file is no directory.
    ctx.run(&["--rm", "--cwd", "/bin/busybox/x"], BUSYBOX, &ctx.id("file"), &["true"])
        .run()?
        .refused(&["/bin/busybox/x"])?;
    Ok(Outcome::Passed)
}

/// A file system in memory that begins with what the directory has.
const COPIED: &str = "type=tmpfs,src=tmpfs,dst=/bin,options=tmpcopyup:size=8m";

/// What is in it.
const COPY: &str = "for dir in /bin /data/dir; do
        find $dir | sort | xargs stat -c '%N %F %a %u %g' | md5sum
        find $dir -type f | sort | xargs md5sum; touch $dir/new && echo writable; grep -c \" $dir tmpfs\" /proc/mounts
    done";

/// Options of a tmpfs, and a volume in the place of shared memory.
fn mounts(ctx: &Ctx) -> Result<Outcome> {
    let options =
        "grep ' /scratch ' /proc/mounts | tr ', ' '\\n\\n' | grep -E '^(sync|dirsync|noexec|size=1024k)$'";
    let scratch = "type=tmpfs,src=tmpfs,dst=/scratch,options=sync:dirsync:noexec:size=1m";
    compare(
        ctx,
        &[
            ("options of a tmpfs", &["--mount", scratch], options),
            ("shm", &[], "cat /dev/shm/file; echo new >/dev/shm/new"),
            ("copied up", &["--mount", COPIED], COPY),
            (
                "copied up from a volume",
                &["--mount", "type=tmpfs,src=tmpfs,dst=/data/dir,options=tmpcopyup"],
                COPY,
            ),
            (
                "copied up below mounts",
                &[
                    "--mount",
                    "type=tmpfs,src=tmpfs,dst=/data/dir,options=tmpcopyup",
                    "--mount",
                    "type=tmpfs,src=tmpfs,dst=/data/dir/new/place",
                    "--mount",
                    "type=bind,src=/etc/hostname,dst=/data/dir/below/file,options=rbind:ro",
                ],
                COPY,
            ),
            ("copied up and read-only", &["--mount", &format!("{COPIED}:ro")], COPY),
        ],
        tree,
    )?;
    let too_small = "type=tmpfs,src=tmpfs,dst=/bin,options=tmpcopyup:size=64k";
    ctx.run(&["--rm", "--mount", too_small], BUSYBOX, &ctx.id("full"), &["true"])
        .run()?
        .refused(&["No space left on device"])?;
    Ok(Outcome::Passed)
}

/// An ordinary user's terminal is its own, by each of its names.
fn terminals(ctx: &Ctx) -> Result<Outcome> {
    let script = "for name in stdout tty console ../proc/1/fd/1; do echo to $name >/dev/$name; done; stat -c '%a %u %g' /dev/pts/0 /dev/console; exec </dev/null >/dev/null 2>&1; sleep 1; echo once more >/dev/console; exit 3";
    let [runc, krun] = [Runtime::Runc, Runtime::Krun].map(|runtime| {
        let id = ctx.id("");
        let command = format!(
            "ctr run --rm -t --user 1000:1000 --runtime {} {BUSYBOX} {id} sh -c \"{script}\"",
            runtime.containerd_name()
        );
        let output = Cmd::new(&["script", "-qec", &command, "/dev/null"]).hold_stdin().run()?;
        Ok::<_, anyhow::Error>((output.status, output.stdout_text()))
    });
    let (runc, krun) = (runc?, krun?);
    ensure!(runc == krun && krun.0 == 3, "runc gives {runc:?}, and krun {krun:?}");
    Ok(Outcome::Passed)
}

/// A process that a real-time signal kills has ended, as an exec or not.
fn signals(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    ctx.run(&["--detach", "--null-io"], BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    for signal in [34, 35, 37, 50, 64] {
        let (exec, kill) = (format!("by-{signal}"), format!("kill -{signal} $$"));
        ctx.ctr(&["task", "exec", "--exec-id", &exec, &id, "sh", "-c", &kill])
            .run()?
            .expect_status(128 + signal)
            .with_context(|| format!("signal {signal}"))?;
    }
    ctx.end(&id)?;
    Ok(Outcome::Passed)
}
