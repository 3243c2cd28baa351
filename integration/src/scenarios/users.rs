//! User namespaces: a container's root is nobody outside of it, under krun as under runc.

use crate::command::Cmd;
use crate::cri::{self, handler, says};
use crate::ctx::{BUSYBOX, Ctx, Runtime, containerd_version};
use crate::scenario::{Outcome, Scenario};
use crate::{spec, undo};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

const WHY: &str = "it compares with runc";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("users-container", container).krun_only(WHY),
    Scenario::new("users-volumes", volumes).krun_only(WHY),
    Scenario::new("users-refused", refused).krun_only("runc refuses other things"),
    Scenario::new("users-pod", pod).krun_only(WHY).needs("crictl").timeout(400),
];

/// The first id outside, and how many.
const OUTSIDE: u32 = 131_072;
const LENGTH: u32 = 65_536;

/// What both runtimes give for `look`.
fn same<T: PartialEq + std::fmt::Debug>(ctx: &Ctx, look: impl Fn(&Ctx) -> Result<T>) -> Result<T> {
    let [runc, krun] = [Runtime::Runc, Runtime::Krun].map(|runtime| look(&Ctx { runtime, ..*ctx }));
    let (runc, krun) = (runc.context("with runc")?, krun?);
    ensure!(runc == krun, "runc gives {runc:?}, and krun {krun:?}");
    Ok(krun)
}

/// Has the copies of images with other owners removed that ctr makes.
pub fn forget_snapshots(ctx: &Ctx) -> Result<()> {
    let known = ctx.ctr(&["snapshots", "ls"]).run()?.ok()?.stdout_text();
    let known: Vec<_> = known.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let list = "ctr snapshots ls | cut -d ' ' -f 1";
    let remove = format!(
        "for one in $({list}); do case ' {} ' in *\" $one \"*) ;; *) ctr snapshots rm $one ;; esac; done",
        known.join(" ")
    );
    undo::remember(&["sh", "-c", &remove])
}

/// A directory on a disk: in memory, files have had other owners only since Linux 6.3.
fn on_disk(ctx: &Ctx, name: &str) -> Result<PathBuf> {
    let path = Path::new("/var/lib").join(ctx.id(name));
    undo::remember(&["rm", "-rf", &path.display().to_string()])?;
    fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    Ok(path)
}

fn name(ctx: &Ctx) -> &'static str {
    if ctx.krun() { "krun" } else { "runc" }
}

/// Its ids, files, devices, limits, network and execs.
fn container(ctx: &Ctx) -> Result<Outcome> {
    let map = format!("0:{OUTSIDE}:{LENGTH}");
    let maps = ["--uidmap", &map, "--gidmap", &map];
    let script = "id; cat /proc/self/uid_map /proc/self/gid_map; touch /new; chown 5:6 /new; stat -c '%u %g %n' / /bin /new /proc /dev/null /dev/core
        readlink /dev/core; ls /dev; grep -E 'open files|locked memory|stack size' /proc/self/limits; grep -E 'Cap|NoNewPrivs' /proc/self/status
        ip addr add 10.9.9.9/32 dev lo; echo network $?; ip -o addr show lo | grep -c 10.9.9.9; hostname | wc -l; mkdir /m; mount -t tmpfs tmpfs /m; echo mount $?
        echo by name >/dev/stdout; ls /sys/class/net; echo x >/proc/sys/kernel/printk; echo printk $?; mknod /device c 1 3; echo mknod $?
        su -s /bin/sh nobody -c 'id -u; touch /root/x; echo $?'";
    forget_snapshots(ctx)?;
    let seen = same(ctx, |ctx| {
        let id = ctx.id(name(ctx));
        let flags =
            [&["--detach", "--cap-add", "CAP_NET_ADMIN", "--cap-add", "CAP_SYS_ADMIN"], &maps[..]].concat();
        ctx.run(&flags, BUSYBOX, &id, &["sleep", "1000"]).run()?.ok()?;
        ctx.wait_for_status(&id, "RUNNING")?;
        let exec = |more: &[&str], number: &str, script: &str| -> Result<(i32, String)> {
            let words = ["task", "exec", "--exec-id", number];
            let output = ctx.ctr(&[&words[..], more, &[&id, "sh", "-c", script]].concat()).run()?;
            Ok((output.status, output.stdout_text()))
        };
        let root = exec(&[], "root", script)?;
        let user = "id; cat /proc/self/uid_map; echo by name >/dev/stdout; cat /root/x; grep -E 'Uid|Groups|CapEff' /proc/self/status; exit 7";
        let user = exec(&["--user", "1000:1000"], "user", user)?;
        let unmapped = exec(&["--user", "65536"], "unmapped", "id")?.0;
        // As the first process, too.
        let first = ctx.id(&format!("{}-first", name(ctx)));
        let first = ctx.sh(
            &[&["--user", "1000:1000"], &maps[..]].concat(),
            &first,
            "id; echo by name >/dev/stdout; exit 9",
        );
        let first = first.run()?;
        ctx.end(&id)?;
        Ok((root, user, unmapped != 0, (first.status, first.stdout_text())))
    })?;
    let ((_, root), user, is_refused, first) = &seen;
    for words in [format!("{OUTSIDE}"), "network 0".to_owned(), "mount 0".to_owned(), "by name".to_owned()] {
        ensure!(root.contains(&words), "no {words:?}: {root}");
    }
    ensure!(user.0 == 7 && *is_refused && first.0 == 9, "{seen:?}");
    Ok(Outcome::Passed)
}

/// A spec with a user namespace, whose root belongs to its root.
fn spec(ctx: &Ctx, id: &str, args: &[&str]) -> Result<Value> {
    let mut spec = spec::new(ctx, id, args)?;
    let root = spec["root"]["path"].as_str().context("no root")?.to_owned();
    Cmd::new(&["chown", "-hR", &format!("{OUTSIDE}:{OUTSIDE}"), &root]).run()?.ok()?;
    let mapping = json!([{"containerID": 0, "hostID": OUTSIDE, "size": LENGTH}]);
    spec["linux"]["namespaces"].as_array_mut().context("no namespaces")?.push(json!({"type": "user"}));
    (spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]) = (mapping.clone(), mapping);
    Ok(spec)
}

/// Volumes with owners of their own, with the container's, and with the host's.
fn volumes(ctx: &Ctx) -> Result<Outcome> {
    let script = "for at in /own /implied /hosts /other; do
            for file in $at $at/mine $at/users; do busybox stat -c '%u %g %n' $file; done
            echo new >$at/new; echo $? $at; busybox chown 7:8 $at/new && busybox stat -c '%u %g' $at/new
        done; cat /own/below/file; busybox stat -c '%u' /own/below/file";
    let seen = same(ctx, |ctx| {
        let id = ctx.id(name(ctx));
        let mut spec = spec(ctx, &id, &["/bin/sh", "-c", script])?;
        let mapping = json!([{"containerID": 0, "hostID": OUTSIDE, "size": LENGTH}]);
        let other = json!([{"containerID": 0, "hostID": OUTSIDE + 100, "size": 1}, {"containerID": 1000, "hostID": OUTSIDE, "size": 1}]);
        let mut sources = Vec::new();
        for (at, mapping, options) in [
            ("/own", Some(&mapping), vec!["rbind"]),
            ("/implied", Some(&mapping), vec!["rbind", "ro", "ridmap"]),
            ("/hosts", None, vec!["rbind"]),
            ("/other", Some(&other), vec!["rbind"]),
        ] {
            let source = on_disk(ctx, &format!("{}{}", name(ctx), at.replace('/', "-")))?;
            fs::create_dir_all(source.join("below")).context("make a volume")?;
            for (file, owner) in [("mine", 0), ("users", 1000)] {
                fs::write(source.join(file), "").context("fill a volume")?;
                chown(source.join(file), Some(owner), Some(owner)).context("chown")?;
            }
            if at == "/own" {
                let below = source.join("below").display().to_string();
                undo::remember(&["umount", &below])?;
                Cmd::new(&["mount", "-t", "tmpfs", "tmpfs", &below]).run()?.ok()?;
                fs::write(source.join("below/file"), "below\n").context("fill a volume")?;
            }
            let mut mount = json!({"destination": at, "source": source, "options": options});
            if let Some(mapping) = mapping {
                mount["uidMappings"] = mapping.clone();
                mount["gidMappings"] = mapping.clone();
            }
            spec["mounts"].as_array_mut().context("no mounts")?.push(mount);
            sources.push(source);
        }
        let output = spec::run(ctx, &["--rm"], &spec, &id)?.run()?;
        let owner =
            |number: usize| fs::metadata(sources[number].join("new")).ok().map(|of| (of.uid(), of.gid()));
        Ok((output.status, output.stdout_text(), owner(0), owner(1), owner(2), owner(3)))
    })?;
    // As root's on the host, what the container's user 7 owns.
    ensure!(seen.0 == 0 && seen.2 == Some((7, 8)) && seen.3.is_none() && seen.4.is_none(), "{seen:?}");
    Ok(Outcome::Passed)
}

/// A case: its name, what it changes in a spec and to what, and the words of the refusal.
type Case<'a> = (&'a str, fn(&mut Value, Value), Value, &'a [&'a str]);

/// Ids that cannot be, and volumes that cannot have other owners.
fn refused(ctx: &Ctx) -> Result<Outcome> {
    let line = |inside: u32, outside: u32, size: u32| json!({"containerID": inside, "hostID": outside, "size": size});
    let cases: [Case; 5] = [
        ("no-root", set_users, json!([line(1, OUTSIDE, 10)]), &["linux.uidMappings", "id 0"]),
        ("empty", set_users, json!([line(0, OUTSIDE, 0)]), &["linux.uidMappings", "0:131072:0"]),
        (
            "overlap",
            set_users,
            json!([line(0, OUTSIDE, 10), line(5, 7, 1)]),
            &["linux.uidMappings", "overlaps"],
        ),
        (
            "not-mapped",
            set_users,
            json!([line(0, OUTSIDE, 10), line(10, OUTSIDE - 1, u32::MAX)]),
            &["linux.uidMappings", "no range"],
        ),
        ("user", set_user, json!(LENGTH), &["process.user.uid 65536", "linux.uidMappings"]),
    ];
    for (name, change, value, words) in cases {
        let id = ctx.id(name);
        let mut spec = spec(ctx, &id, &["/bin/true"])?;
        change(&mut spec, value);
        spec::run(ctx, &["--rm"], &spec, &id)?.run()?.refused(words).context(name)?;
        println!("tried: {name}: refused");
    }
    // A file system whose files have no other owners.
    let id = ctx.id("ramfs");
    let source = ctx.work("ramfs");
    fs::create_dir_all(&source).context("make a directory")?;
    let at = source.display().to_string();
    undo::remember(&["umount", &at])?;
    Cmd::new(&["mount", "-t", "ramfs", "ramfs", &at]).run()?.ok()?;
    let mut spec = spec(ctx, &id, &["/bin/true"])?;
    let maps = json!([line(0, OUTSIDE, LENGTH)]);
    let mount = json!({"destination": "/data", "source": source, "options": ["rbind"], "uidMappings": maps, "gidMappings": maps});
    spec["mounts"].as_array_mut().context("no mounts")?.push(mount);
    spec::run(ctx, &["--rm"], &spec, &id)?.run()?.refused(&[&at, "Invalid argument"])?;
    Ok(Outcome::Passed)
}

fn set_users(spec: &mut Value, ranges: Value) {
    spec["linux"]["uidMappings"] = ranges;
}

fn set_user(spec: &mut Value, user: Value) {
    spec["process"]["user"]["uid"] = user;
}

/// A pod with `hostUsers: false`, whose rootfs and volumes have other owners, and whose root owns its network.
fn pod(ctx: &Ctx) -> Result<Outcome> {
    if containerd_version()? < (2, 3) {
        return Ok(Outcome::Skipped("earlier containerds ask only runc's shim whether it can".to_owned()));
    }
    cri::set_up(ctx)?;
    let seen = same(ctx, |ctx| {
        let maps = json!([{"host_id": OUTSIDE, "container_id": 0, "length": LENGTH}]);
        let users = json!({"mode": 0, "uids": maps, "gids": maps});
        let security =
            json!({"security_context": {"namespace_options": {"pid": 1, "userns_options": users}}});
        let runtime = name(ctx);
        let pod = cri::file(
            ctx,
            &format!("{runtime}-pod"),
            &json!({
                "metadata": {"name": "users", "uid": format!("users-{runtime}"), "namespace": "default"},
                "log_directory": ctx.work(&format!("logs-{runtime}")), "linux": security,
            }),
        )?;
        let volume = on_disk(ctx, &format!("volume-{runtime}"))?;
        fs::write(volume.join("file"), "from the host\n").context("fill a volume")?;
        let container = cri::file(
            ctx,
            &format!("{runtime}-app"),
            &json!({
                "metadata": {"name": "app"}, "image": {"image": BUSYBOX}, "command": ["sleep", "1000"], "log_path": "app.log",
                "linux": security,
                "mounts": [{"container_path": "/data", "host_path": volume, "uidMappings": maps, "gidMappings": maps}],
            }),
        )?;
        let id = says(&["runp", "--runtime", handler(ctx), &pod])?;
        let app = says(&["create", "--no-pull", &id, &container, &pod])?;
        says(&["start", &app])?;
        let script = "id -u; cat /proc/self/uid_map /data/file; echo back >/data/new; stat -c '%u %g %n' / /etc /data /data/file /data/new /etc/hosts
            ip -o addr show eth0 | grep -c 'inet '; ls /sys/class/net; ping -c 1 -W 5 10.88.0.1 >/dev/null; echo ping $?; nc -l -p 80 -e true >/dev/null 2>&1 & for try in 1 2 3 4 5 6 7 8 9; do nc 127.0.0.1 80 && break; sleep 1; done; echo port $?";
        let said = says(&["exec", &app, "sh", "-c", script])?;
        let made = fs::metadata(volume.join("new")).context("the container's file")?;
        says(&["stopp", &id])?;
        says(&["rmp", &id])?;
        Ok((said, made.uid(), made.gid()))
    })?;
    ensure!(seen.1 == 0 && seen.2 == 0 && seen.0.contains("ping 0") && seen.0.contains("port 0"), "{seen:?}");
    Ok(Outcome::Passed)
}
