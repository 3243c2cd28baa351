//! What the host changes in a volume: seen by who looks, and by who waits.

use crate::command::{Cmd, Running};
use crate::containerd_log;
use crate::ctx::{BUSYBOX, Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use crate::{procs, undo};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("watch-volumes", volumes).image(DEBIAN),
    Scenario::new("watch-pod", pod).image(DEBIAN).long().timeout(400),
    Scenario::new("watch-greedy", greedy).image(DEBIAN).krun_only("runc has nothing to watch").timeout(400),
    Scenario::new("watch-unmounted", unmounted),
    Scenario::new("watch-refused", refused).long().krun_only("runc has nothing to watch"),
    Scenario::new("watch-tail", tail).image(DEBIAN).long(),
    Scenario::new("watch-checkout", checkout).image(DEBIAN).long().timeout(400),
    Scenario::new("watch-storm", storm).image(DEBIAN).long().timeout(400),
];

/// Shows what it sees.
const WATCH: &str = include_str!("watch.py");

/// Within what time a change must be seen, in an emulated box with neighbours: less than the 5 s for which a guest keeps names
/// and attributes. On a machine of its own it takes a fiftieth of it.
const SOON: Duration = Duration::from_secs(3);

/// As [`SOON`] for thousands of changes.
const MANY_SOON: Duration = Duration::from_secs(30);

/// Puts a container into the sandbox of another. Source: containerd `cmd/containerd-shim-runc-v2`.
const GROUP: &str = "io.containerd.runc.v2.group";

/// Does `change`, and waits until the watcher has said each of `lines` after it.
fn seen(running: &Running, what: &str, lines: &[&str], change: impl FnOnce() -> Result<()>) -> Result<()> {
    seen_within(SOON, running, what, lines, change)
}

fn seen_within(
    limit: Duration,
    running: &Running,
    what: &str,
    lines: &[&str],
    change: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = running.stdout_len();
    change().with_context(|| what.to_owned())?;
    let began = Instant::now();
    let new = || String::from_utf8_lossy(&running.stdout_now()[before..]).into_owned();
    let missing =
        || lines.iter().filter(|line| !new().lines().any(|said| said == **line)).collect::<Vec<_>>();
    until_true(what, limit, || Ok(missing().is_empty()))
        .with_context(|| format!("not said: {:?}; said: {:?}", missing(), new()))?;
    println!("{what}: seen within {} ms", began.elapsed().as_millis());
    Ok(())
}

/// A directory with the files that the watcher looks at.
fn source(ctx: &Ctx, name: &str) -> Result<std::path::PathBuf> {
    let source = ctx.work(name);
    fs::create_dir(&source).with_context(|| format!("make {}", source.display()))?;
    fs::write(source.join("file"), "one").context("write a file")?;
    fs::write(source.join("gone"), "here").context("write a file")?;
    symlink("old", source.join("link")).context("make a link")?;
    Ok(source)
}

fn volume(source: &Path, target: &str, access: &str) -> String {
    format!("type=bind,src={},dst={target},options=rbind:{access}", source.display())
}

/// Replaces a file as editors do.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("tmp");
    fs::write(&new, text)?;
    Ok(fs::rename(new, path)?)
}

/// Every kind of change, in a volume that is written, one that is only read, and a file.
fn volumes(ctx: &Ctx) -> Result<Outcome> {
    let source = source(ctx, "source")?;
    let single = ctx.work("single");
    fs::write(&single, "one").context("write a file")?;
    let volumes =
        [volume(&source, "/rw", "rw"), volume(&source, "/ro", "ro"), volume(&single, "/single", "ro")];
    let flags: Vec<_> = volumes.iter().flat_map(|volume| ["--mount", volume]).chain(["--rm"]).collect();
    let args = ["python3", "-c", WATCH, "rw=/rw", "ro=/ro", "single=/single"];
    let mut running = ctx.run(&flags, DEBIAN, &ctx.id(""), &args).spawn()?;
    running.wait_for_stdout("ready")?;

    let file = source.join("file");
    let woken = ["rw top woken", "ro top woken", "rw file woken", "ro file woken"];
    let both = |seen: [&'static str; 2], woken: &[&'static str]| [&seen, woken].concat();
    seen(&running, "an edit in place", &both(["rw file two:3", "ro file two:3"], &woken), || {
        Ok(fs::write(&file, "two")?)
    })?;
    seen(&running, "an append", &both(["rw file twomore:7", "ro file twomore:7"], &woken), || {
        Ok(File::options().append(true).open(&file)?.write_all(b"more")?)
    })?;
    for text in ["three", "four!"] {
        let lines = [format!("rw file {text}:5"), format!("ro file {text}:5")];
        let lines: Vec<&str> = lines.iter().map(String::as_str).chain(woken).collect();
        seen(&running, "a file replaced by a rename", &lines, || replace(&file, text))?;
    }
    let tops = &woken[..2];
    seen(
        &running,
        "a link replaced by a rename",
        &both(["rw link link:new", "ro link link:new"], tops),
        || {
            symlink("new", source.join("link.tmp"))?;
            Ok(fs::rename(source.join("link.tmp"), source.join("link"))?)
        },
    )?;
    seen(&running, "a new file", &both(["rw new text:4", "ro new text:4"], tops), || {
        Ok(fs::write(source.join("new"), "text")?)
    })?;
    seen(&running, "a new directory", &both(["rw dir/in/it deep:4", "ro dir/in/it deep:4"], tops), || {
        fs::create_dir_all(source.join("dir/in"))?;
        Ok(fs::write(source.join("dir/in/it"), "deep")?)
    })?;
    // Neither looked at nor watched until now.
    seen(&running, "an edit in a new directory", &["rw dir/in/it edit:4", "ro dir/in/it edit:4"], || {
        Ok(fs::write(source.join("dir/in/it"), "edit")?)
    })?;
    let gone = ["rw gone No such file or directory", "ro gone No such file or directory"];
    seen(&running, "a removal", &both(gone, tops), || Ok(fs::remove_file(source.join("gone"))?))?;
    seen(&running, "an edit of a file that is a volume", &["single . two:3", "single top woken"], || {
        Ok(fs::write(&single, "two")?)
    })?;
    // Nothing is written by telling: the watcher would be woken without end.
    let quiet = running.stdout_len();
    let times = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).context("look at a file");
    let before = times(&file)?;
    fs::write(source.join("end"), "").context("write a file")?;
    let output = running.finish()?.ok()?;
    ensure!(times(&file)? == before, "telling of a change has changed a file");
    let later = String::from_utf8_lossy(&output.stdout[quiet..]).lines().count();
    ensure!(later < 20, "{later} lines were said after the last change");
    Ok(Outcome::Passed)
}

/// Two containers of a pod, the second made later: each sees what the host changes in a volume of its own, and what the other
/// does in one that both have. The host sees what a container does.
fn pod(ctx: &Ctx) -> Result<Outcome> {
    let (own, shared) = (source(ctx, "own")?, source(ctx, "shared")?);
    let (first, second) = (ctx.id("first"), ctx.id("second"));
    let group = format!("{GROUP}={first}");
    let (both, own_volume) = (volume(&shared, "/both", "rw"), volume(&own, "/own", "ro"));
    let flags = ["-d", "--annotation", &group, "--mount", &both];
    ctx.run(&flags, BUSYBOX, &first, &["sleep", "1000"]).run()?.ok()?;
    let flags = ["--rm", "--annotation", &group, "--mount", &both, "--mount", &own_volume];
    let args = ["python3", "-c", WATCH, "both=/both", "own=/own"];
    let mut running = ctx.run(&flags, DEBIAN, &second, &args).spawn()?;
    running.wait_for_stdout("ready")?;
    let here = format!("host={}", shared.display());
    let mut host = Cmd::new(&["python3", "-c", WATCH, &here]).spawn()?;
    host.wait_for_stdout("ready")?;

    seen(&running, "the host's change", &["own file two:3", "own top woken", "own file woken"], || {
        replace(&own.join("file"), "two")
    })?;
    let exec = |id: &str, script: &str| -> Result<()> {
        ctx.ctr(&["task", "exec", "--exec-id", id, &first, "sh", "-c", script]).run()?.ok()?;
        Ok(())
    };
    let lines = ["both file three:5", "both top woken", "both file woken"];
    seen(&running, "another container's change", &lines, || {
        exec("a", "printf three >/both/file.tmp && mv /both/file.tmp /both/file")
    })?;
    let lines = ["host new text:4", "host top woken"];
    seen(&host, "a container's change on the host", &lines, || exec("b", "printf text >/both/new"))?;
    fs::write(shared.join("end"), "").context("write a file")?;
    running.finish()?.ok()?;
    host.finish()?.ok()?;
    ctx.end(&first)?;
    Ok(Outcome::Passed)
}

/// What the host unmounts below a volume that follows it is let go. Seen by an overlay: no other one may have its upper layer, as long
/// as its file system is there.
fn unmounted(ctx: &Ctx) -> Result<Outcome> {
    let source = source(ctx, "source")?;
    let layers = ["lower", "upper", "work"].map(|name| ctx.work(name));
    let places = [source.join("disk"), ctx.work("elsewhere")];
    for directory in layers.iter().chain(&places) {
        fs::create_dir(directory).context("make a directory")?;
    }
    let [lower, upper, work] = layers.map(|path| path.display().to_string());
    let [place, elsewhere] = places.map(|path| path.display().to_string());
    undo::remember(&["sh", "-c", &format!("umount {place} {elsewhere} 2>/dev/null; true")])?;
    let options = format!("index=on,lowerdir={lower},upperdir={upper},workdir={work}");
    let mount = |place: &str| Cmd::new(&["mount", "-t", "overlay", "overlay", "-o", &options, place]).run();
    mount(&place)?.ok()?;
    let volume = format!("type=bind,src={},dst=/there,options=rbind:rslave:rw", source.display());
    let id = ctx.id("");
    ctx.run(&["-d", "--mount", &volume], BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    ctx.wait_for_status(&id, "RUNNING")?;
    ensure!(mount(&elsewhere)?.status != 0, "another overlay has the layer while this one is mounted");
    Cmd::new(&["umount", &place]).run()?.ok()?;
    until_true("the file system to be gone", Duration::from_secs(20), || Ok(mount(&elsewhere)?.status == 0))?;
    ctx.end(&id)?;
    Ok(Outcome::Passed)
}

/// Has thousands of watches, each by 40,000 descriptors.
const GREEDY: &str = "
import ctypes, os, signal
libc = ctypes.CDLL(None)
watched = libc.inotify_init1(0)
os.mkdir('/dev/shm/watched')
for number in range(5000):
    name = f'/dev/shm/watched/{number}'
    open(name, 'w').close()
    libc.inotify_add_watch(watched, name.encode(), 2)
for _ in range(40):
    if os.fork() == 0:
        try:
            while True: os.dup(watched)
        except OSError:
            signal.pause()
print('ready', flush=True)
signal.pause()
";

/// Takes all groups of fanotify that its user may have.
const GROUPS: &str = "
import ctypes, signal
libc = ctypes.CDLL(None, use_errno=True)
count = 0
while libc.fanotify_init(0, 0) >= 0: count += 1
print('taken', count, ctypes.get_errno(), flush=True)
signal.pause()
";

/// A neighbour in the pod with very many watches, and a host whose root has taken all groups of fanotify, keep nobody waiting.
fn greedy(ctx: &Ctx) -> Result<Outcome> {
    let mut groups = Cmd::new(&["python3", "-c", GROUPS]).spawn()?;
    groups.wait_for_stdout("taken")?;
    let source = source(ctx, "source")?;
    let (first, second) = (ctx.id("first"), ctx.id("second"));
    let group = format!("{GROUP}={first}");
    let own = volume(&source, "/own", "rw");
    let mut neighbour = ctx.python(&["--annotation", &group], &first, GREEDY).spawn()?;
    neighbour.wait_for_stdout("ready")?;
    let flags = ["--rm", "--annotation", &group, "--mount", &own];
    let mut running = ctx.run(&flags, DEBIAN, &second, &["python3", "-c", WATCH, "own=/own"]).spawn()?;
    running.wait_for_stdout("ready")?;
    ensure!(
        marks(&first)? > 0,
        "the volume is not watched: {}",
        String::from_utf8_lossy(&groups.stdout_now())
    );
    let lines = ["own file two:3", "own top woken", "own file woken"];
    seen(&running, "the host's change", &lines, || replace(&source.join("file"), "two"))?;
    fs::write(source.join("end"), "").context("write a file")?;
    running.finish()?.ok()?;
    ctx.kill(&first, "SIGKILL")?.ok()?;
    neighbour.finish()?.expect_status(137)?;
    Cmd::new(&["kill", &groups.pid().to_string()]).run()?.ok()?;
    groups.finish()?;
    Ok(Outcome::Passed)
}

/// A volume that cannot be watched does not keep its container from running; where that is switched off, none is watched.
fn refused(ctx: &Ctx) -> Result<Outcome> {
    let log = containerd_log::mark();
    let unwatchable = volume(Path::new("/sys/kernel"), "/there", "ro");
    ctx.sh(&["--mount", &unwatchable], &ctx.id("sys"), "ls /there >/dev/null && echo works")
        .run()?
        .ok()?
        .printed("works\n")?;
    let told = log.since()?.matches("cannot be watched").count();
    ensure!(told == 1, "the log has {told} lines about a volume that cannot be watched");

    let source = source(ctx, "source")?;
    let mount = volume(&source, "/there", "rw");
    let config = ctx.work("config.toml");
    fs::write(&config, "watch_volumes = false\n").context("configure")?;
    let config = config.display().to_string();
    let (id, flags) = (ctx.id("off"), ["-d", "--mount", &mount]);
    let off = [&flags[..], &["--runtime-config-path", &config]].concat();
    ctx.run(&off, BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    ensure!(marks(&id)? == 0, "volumes are watched though nobody has asked for it");
    ctx.end(&id)?;
    ctx.run(&flags, BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
    ensure!(marks(&id)? > 0, "volumes are not watched");
    ctx.end(&id)?;
    Ok(Outcome::Passed)
}

/// How many marks of fanotify the shim of a container has.
fn marks(id: &str) -> Result<usize> {
    let shim = procs::shim_of(id)?.context("no shim")?;
    let infos = fs::read_dir(format!("/proc/{}/fdinfo", shim.pid)).context("list the shim's descriptors")?;
    let texts = infos.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
    Ok(texts.map(|text| text.lines().filter(|line| line.starts_with("fanotify ino:")).count()).sum())
}

/// A log of the host's that is followed, and rotated. On virtiofs, `tail` does not wait for events, but looks once a second.
fn tail(ctx: &Ctx) -> Result<Outcome> {
    let source = source(ctx, "source")?;
    let log = source.join("log");
    fs::write(&log, "before\n").context("write a log")?;
    let mount = volume(&source, "/there", "ro");
    let flags = ["--rm", "--mount", &mount];
    let args = ["tail", "-n", "1", "-F", "/there/log"];
    let id = ctx.id("");
    let mut running = ctx.run(&flags, DEBIAN, &id, &args).spawn()?;
    running.wait_for_stdout("before")?;
    for line in ["one", "two"] {
        seen(&running, "a line of a log", &[line], || {
            Ok(writeln!(File::options().append(true).open(&log)?, "{line}")?)
        })?;
    }
    // `tail` looks for another file of that name after some looks at the one that it has.
    seen_within(MANY_SOON, &running, "the first line of the next log", &["after"], || {
        fs::rename(&log, source.join("log.1"))?;
        Ok(fs::write(&log, "after\n")?)
    })?;
    ctx.kill(&id, "SIGKILL")?.ok()?;
    running.finish()?.expect_status(137)?;
    Ok(Outcome::Passed)
}

/// Keeps looking at 10 files of 2,000 until they are replaced, and tells how many of them are old a moment later: less than the
/// 5 s for which a guest keeps names. Then all are read.
const CHECKOUT: &str = "
import os, time
def old(directories, names):
    paths = [f'/there/tree/{d}/{n}' for d in directories for n in names]
    return [path for path in paths if open(path).read() != 'two']
print('old', len(old([19], range(10))), flush=True)
while not os.path.exists('/there/done'):
    try: old([19], range(10))
    except OSError: pass
time.sleep(2.5)
print('old', len(old([19], range(10))), flush=True)
print('of all', len(old(range(20), range(100))), flush=True)
";

/// 2,000 files replaced at once, as by `git checkout`.
fn checkout(ctx: &Ctx) -> Result<Outcome> {
    let source = source(ctx, "source")?;
    let write = |text: &str| -> Result<()> {
        for (directory, name) in (0..20).flat_map(|directory| (0..100).map(move |name| (directory, name))) {
            let directory = source.join(format!("tree/{directory}"));
            fs::create_dir_all(&directory)?;
            replace(&directory.join(format!("{name}")), text)?;
        }
        Ok(())
    };
    write("one").context("make a tree")?;
    let mount = volume(&source, "/there", "ro");
    let flags = ["--mount", &mount];
    let mut running = ctx.python(&flags, &ctx.id(""), CHECKOUT).timeout(200).spawn()?;
    running.wait_for_stdout("old 10")?;
    seen_within(MANY_SOON, &running, "2,000 files", &["old 0"], || {
        write("two")?;
        Ok(fs::write(source.join("done"), "")?)
    })?;
    running.finish()?.ok()?.printed("old 10\nold 0\nof all 0\n")?;
    Ok(Outcome::Passed)
}

/// 100,000 changes at once: the shim stays small, and the next change is seen as soon as any other.
fn storm(ctx: &Ctx) -> Result<Outcome> {
    let source = source(ctx, "source")?;
    let id = ctx.id("");
    let mount = volume(&source, "/rw", "rw");
    let flags = ["--rm", "--mount", &mount];
    let mut running = ctx.run(&flags, DEBIAN, &id, &["python3", "-c", WATCH, "rw=/rw"]).spawn()?;
    running.wait_for_stdout("ready")?;
    let memory = || -> Result<u64> {
        let shim = if ctx.krun() { procs::shim_of(&id)?.context("no shim")?.pid } else { running.pid() };
        let status = fs::read_to_string(format!("/proc/{shim}/status")).context("read the status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    let before = memory()?;
    let began = Instant::now();
    for number in 0..50_000 {
        let name = source.join(format!("storm-{number}"));
        fs::write(&name, "").context("write a file")?;
        fs::remove_file(&name).context("remove a file")?;
    }
    println!("100,000 changes took {:?}", began.elapsed());
    seen_within(MANY_SOON, &running, "a change after a storm", &["rw file two:3"], || {
        replace(&source.join("file"), "two")
    })?;
    let grown = memory()?.saturating_sub(before);
    println!("the shim grew by {grown} KiB");
    ensure!(grown < 8 << 10, "the shim grew by {grown} KiB");
    seen(&running, "one more change", &["rw file three:5"], || replace(&source.join("file"), "three"))?;
    fs::write(source.join("end"), "").context("write a file")?;
    running.finish()?.ok()?;
    Ok(Outcome::Passed)
}
