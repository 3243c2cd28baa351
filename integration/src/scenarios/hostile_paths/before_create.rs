//! Before Create: what leads through a link of /proc, or is a link where none may be, is refused by name and at once. No VM boots.

use super::super::bad_bundle::wrap;
use super::{Prize, bind, fifo, link};
use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::Outcome;
use crate::spec;
use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Sources of volumes, logs, and network namespaces.
pub fn sources(ctx: &Ctx) -> Result<Outcome> {
    let prize = Prize::new(ctx)?;
    let magic = prize.magic();
    let daemon = "/proc/1/root/run/containerd/containerd.sock";
    let volumes = [
        ("a volume through a link of /proc", magic.clone(), "rprivate"),
        ("a volume that is a link to one", link(ctx, "dir", &magic)?, "rprivate"),
        ("a single file that is a link to one", link(ctx, "file", &format!("{magic}/of"))?, "rprivate"),
        ("a volume whose parent is a link to one", format!("{}/below", link(ctx, "up", &magic)?), "rprivate"),
        ("a following volume that is a link to one", link(ctx, "root", "/proc/1/root")?, "rslave"),
        ("a socket that is a link to one", link(ctx, "socket", daemon)?, "rprivate"),
    ];
    for (i, (what, source, options)) in volumes.iter().enumerate() {
        let mount = bind(source, "/m", options);
        let command = ctx.sh(&["--mount", &mount], &ctx.id(&format!("volume{i}")), "cat /m /m/of");
        prize.refused(what, command, &["mount source", source])?;
    }

    let device = ctx.work("device").display().to_string();
    Cmd::new(&["mknod", &device, "c", "1", "5"]).run()?.ok()?;
    let logs = [
        ("a log that is a link", link(ctx, "log", &prize.file())?),
        ("a log that is a link to nothing", link(ctx, "dangling", &format!("{}/new", prize.dir()))?),
        ("a log in a directory that is a link of /proc", format!("{}/log", link(ctx, "logs", &magic)?)),
        ("a log that is a FIFO", fifo(ctx, "fifo-log")?),
        ("a log that is a device", device),
    ];
    for (i, (what, log)) in logs.iter().enumerate() {
        let uri = format!("file://{log}");
        let command = ctx.sh(&["--log-uri", &uri], &ctx.id(&format!("log{i}")), "echo written");
        prize.refused(what, command, &[log, "input or output"])?;
    }

    let namespaces = [
        ("a link to the host's network namespace in /proc", link(ctx, "netns", "/proc/1/ns/net")?),
        ("a network namespace through a link of /proc", "/proc/1/root/proc/1/ns/net".to_owned()),
        ("a file as network namespace", prize.file()),
    ];
    for (i, (what, path)) in namespaces.iter().enumerate() {
        let namespace = format!("network:{path}");
        let command = ctx.sh(&["--with-ns", &namespace], &ctx.id(&format!("netns{i}")), "true");
        prize.refused(what, command, &["network namespace", path])?;
    }
    Ok(Outcome::Passed)
}

/// The bundle's config.json, its rootfs, and what its config.json names.
pub fn bundle(ctx: &Ctx) -> Result<Outcome> {
    let prize = Prize::new(ctx)?;
    let (dir, magic) = (prize.dir(), prize.magic());
    let bundles = [
        ("a FIFO as config.json", "rm config.json && mkfifo config.json".to_owned(), "config.json"),
        ("a link as config.json", format!("ln -sf {dir}/of config.json"), "config.json"),
        ("a link of /proc as rootfs", format!("rmdir rootfs && ln -s {magic} rootfs"), "root.path"),
        ("a FIFO as rootfs", "rmdir rootfs && mkfifo rootfs".to_owned(), "rootfs"),
        (
            "a rootfs below a link",
            format!(r#"ln -s {dir} up && sed -i 's|"path":"rootfs"|"path":"up/below"|' config.json"#),
            "root.path",
        ),
        (
            "a rootfs that is to be made below a link",
            format!(r#"ln -s {dir} up && sed -i 's|"path":"rootfs"|"path":"up/new/newer"|' config.json"#),
            "root.path",
        ),
    ];
    for (i, (what, script, word)) in bundles.iter().enumerate() {
        let wrapper = wrap(ctx, &format!("bundle{i}"), &format!("{script}; exec {{shim}} \"$@\""))?;
        let command = ctx.run_as(&wrapper, &["--rm"], &[BUSYBOX, &ctx.id(&format!("b{i}")), "true"]);
        prize.refused(what, command, &[word])?;
    }

    let specs: [(&str, &str, Value, &[&str]); 4] = [
        ("a root directory through a link of /proc", "/root/path", json!(magic), &["rootfs", &magic]),
        ("a root directory that is a link to one", "/root/path", json!(link(ctx, "r", &magic)?), &["rootfs"]),
        ("a FIFO as root directory", "/root/path", json!(fifo(ctx, "root-fifo")?), &["rootfs"]),
        (
            "a cgroup out of its hierarchy",
            "/linux/cgroupsPath",
            json!(format!("/../../..{dir}")),
            &["linux.cgroupsPath", ".."],
        ),
    ];
    for (i, (what, field, value, words)) in specs.into_iter().enumerate() {
        let id = ctx.id(&format!("s{i}"));
        let mut spec = spec::new(ctx, &id, &["sh", "-c", "cat /of"])?;
        *spec.pointer_mut(field).with_context(|| format!("no {field}"))? = value;
        prize.refused(what, spec::run(ctx, &["--rm"], &spec, &id)?, words)?;
    }
    Ok(Outcome::Passed)
}
