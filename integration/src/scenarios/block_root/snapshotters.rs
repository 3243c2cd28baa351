//! Snapshotters that give file systems: containerd's erofs, blockfile and devmapper. Their containers have roots of the guest's own
//! without being asked to.

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx, containerd_version};
use crate::own_containerd::{Containerd, NO_UDEV};
use crate::scenario::Outcome;
use crate::undo;
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::Duration;

/// Where the second containerd has its data: a disk's file system, as its own layers need.
const ROOT: &str = "/var/lib/krun-scenario-containerd";

/// What is asked of each root: what kind it is, what is of the image and what is written, and an overlay in an overlay.
const SCRIPT: &str = "mount | awk '$3 == \"/\" {print $5}'; ls /bin/busybox; echo written >/x; mkdir /bin/new; cat /x; sync
    mkdir -p /o/l /o/u /o/w /o/m; echo low >/o/l/f; mount -t overlay -o lowerdir=/o/l,upperdir=/o/u,workdir=/o/w o /o/m 2>/dev/null && cat /o/m/f; true";

/// A lone container with each, and a pod of two, in which the second comes later and comes again.
pub fn snapshotters(ctx: &Ctx) -> Result<Outcome> {
    if containerd_version()? < (2, 1) {
        return Ok(Outcome::Skipped("containerd has no erofs snapshotter before 2.1".to_owned()));
    }
    let containerd = set_up(ctx)?;
    // An overlay takes no other one on it, with runc as with krun; ext4 does.
    for (snapshotter, root) in [("erofs", "overlay"), ("blockfile", "ext4"), ("devmapper", "ext4")] {
        let more: &[&str] = if root == "ext4" { &["low"] } else { &[] };
        let expected = [&[root, "/bin/busybox", "written"], more].concat().join("\n");
        lone(ctx, &containerd, snapshotter, &expected)?;
        // Of devmapper, a pod's containers have the host's mounts, and a pod's VM may keep those to its end.
        if snapshotter != "devmapper" {
            pod(ctx, &containerd, snapshotter, &expected)?;
        }
    }
    containerd.ctr(&["images", "rm", "--sync", BUSYBOX]).run()?.ok()?;
    containerd.stop()?;
    Ok(Outcome::Passed)
}

/// A container that is stopped and started again finds what it wrote.
fn lone(ctx: &Ctx, containerd: &Containerd, snapshotter: &str, expected: &str) -> Result<()> {
    let id = &ctx.id(snapshotter);
    let flags = ["--snapshotter", snapshotter, "--privileged"];
    containerd.run(ctx, &flags, &[BUSYBOX, id, "sleep", "1000"])?;
    has_own_root(ctx, containerd, id, expected)?;
    containerd.ctr(&["task", "kill", "--signal", "SIGKILL", id]).run()?.ok()?;
    until_true("its end", Duration::from_secs(30), || {
        Ok(containerd.ctr(&["task", "rm", id]).run()?.stderr_text().contains("137"))
    })?;
    containerd.ctr(&["task", "start", "--detach", "--null-io", id]).run()?.ok()?;
    let found = containerd.says(id, "cat /x; [ -d /bin/new ] && echo kept")?;
    ensure!(found == "written\nkept", "{id} has lost what it wrote: {found}");
    containerd.remove(id)
}

fn pod(ctx: &Ctx, containerd: &Containerd, snapshotter: &str, expected: &str) -> Result<()> {
    let [pod, member] = &["pod", "member"].map(|name| ctx.id(&format!("{snapshotter}-{name}")));
    let sandbox = format!("--annotation=io.kubernetes.cri.sandbox-id={pod}");
    let start = |id: &str| -> Result<()> {
        let kind = if id == pod { "sandbox" } else { "container" };
        let kind = format!("--annotation=io.kubernetes.cri.container-type={kind}");
        let flags = ["--snapshotter", snapshotter, "--privileged", &sandbox, &kind];
        containerd.run(ctx, &flags, &[BUSYBOX, id, "sleep", "1000"])
    };
    for id in [pod, member] {
        start(id)?;
        has_own_root(ctx, containerd, id, expected)?;
    }
    containerd.remove(member)?;
    ensure!(containerd.says(pod, "cat /x")? == "written", "{pod} has lost its root with {member}");
    start(member)?;
    let found = containerd.says(member, "cat /x 2>/dev/null; echo new")?;
    ensure!(found == "new", "{member} finds an old root");
    for id in [member, pod] {
        containerd.remove(id)?;
    }
    Ok(())
}

fn has_own_root(ctx: &Ctx, containerd: &Containerd, id: &str, expected: &str) -> Result<()> {
    let said = containerd.says(id, SCRIPT)?;
    ensure!(said == expected, "in {id} a root says {said:?} and not {expected:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    let written = |line: &&str| line.contains(id) && line.contains(" rw") && line.contains("/rootfs ");
    match mounts.lines().find(written) {
        Some(line) if ctx.krun() => anyhow::bail!("the host has mounted what a guest writes: {line}"),
        _ => Ok(()),
    }
}

/// An image with many layers, some of which take away what those below have, with erofs and, by virtiofs and a disk, with overlayfs.
pub fn many_layers(ctx: &Ctx) -> Result<Outcome> {
    if containerd_version()? < (2, 1) {
        return Ok(Outcome::Skipped("containerd has no erofs snapshotter before 2.1".to_owned()));
    }
    let containerd = set_up(ctx)?;
    let (layout, archive) = (ctx.work("layout"), ctx.work("many.tar").display().to_string());
    fs::create_dir(&layout).context("make a directory")?;
    let layout = layout.display().to_string();
    let exported = ctx.work("busybox.tar").display().to_string();
    Cmd::new(&["tar", "-x", "-f", &exported, "-C", &layout]).run()?.ok()?;
    Cmd::new(&["python3", "-c", include_str!("layers.py"), &layout, MANY, &LAYERS.to_string()])
        .run()?
        .ok()?;
    Cmd::new(&["tar", "-c", "-f", &archive, "-C", &layout, "."]).run()?.ok()?;
    containerd.ctr(&["images", "import", "--no-unpack", &archive]).run()?.ok()?;
    // Each tenth but the first takes one away.
    let there = LAYERS - (LAYERS - 1) / 10;
    for snapshotter in ["erofs", "overlayfs"] {
        let id = &ctx.id(snapshotter);
        let block = "--annotation=io.containerd.krun.rootfs=block";
        containerd.run(ctx, &["--snapshotter", snapshotter, block], &[MANY, id, "sleep", "1000"])?;
        let said = containerd.says(id, "ls /layers | wc -l; ls -d /layers/5 /layers/15 2>/dev/null; rm /layers/7; echo x >/layers/new; ls /layers | wc -l")?;
        ensure!(said == format!("{there}\n{there}"), "{id} says {said}");
        containerd.remove(id)?;
    }
    for image in [MANY, BUSYBOX] {
        containerd.ctr(&["images", "rm", "--sync", image]).run()?.ok()?;
    }
    containerd.stop()?;
    Ok(Outcome::Passed)
}

/// The image with many layers, and how many it has beside busybox's own.
const MANY: &str = "localhost/many:1";
const LAYERS: usize = 99;

/// A containerd that has them, and an image.
pub fn set_up(ctx: &Ctx) -> Result<Containerd> {
    let scratch = format!("{ROOT}/scratch");
    for module in ["erofs", "loop", "dm_thin_pool"] {
        Cmd::new(&["modprobe", module]).run()?.ok()?;
    }
    undo::remember(&["sh", "-c", &format!("rm -rf {ROOT}")])?;
    undo::remember(&[
        "sh",
        "-c",
        &format!("grep -o '{ROOT}[^ ]*' /proc/self/mounts | sort -ru | xargs -r umount -l; true"),
    ])?;
    fs::create_dir_all(ROOT).context("make a directory")?;
    Cmd::new(&["mke2fs", "-q", "-F", "-t", "ext4", &scratch, "200M"]).run()?.ok()?;
    pool()?;
    let lines = format!(
        "[plugins.'io.containerd.service.v1.diff-service']\n  default = ['erofs', 'walking']\n\
         [plugins.'io.containerd.snapshotter.v1.blockfile']\n  root_path = '{ROOT}/blockfile'\n  scratch_file = '{scratch}'\n  \
         fs_type = 'ext4'\n  mount_options = ['loop', 'discard']\n  recreate_scratch = true\n\
         [plugins.'io.containerd.snapshotter.v1.devmapper']\n  root_path = '{ROOT}/devmapper'\n  pool_name = '{POOL}'\n  \
         base_image_size = '200MB'\n  fs_type = 'ext4'\n"
    );
    let exported = ctx.work("busybox.tar").display().to_string();
    // Without --local ctr of 2.1 may end before the file's last bytes are written.
    ctx.ctr(&["images", "export", "--local", &exported, BUSYBOX]).run()?.ok()?;
    let containerd = Containerd::start(ctx, ROOT.as_ref(), &lines)?;
    containerd.ctr(&["images", "import", "--no-unpack", &exported]).run()?.ok()?;
    Ok(containerd)
}

/// A pool of devmapper's for thin devices.
const POOL: &str = "krun-scenario-pool";

/// Makes it: of two files in ROOT, with room for 400 MiB, in blocks of 128 sectors.
fn pool() -> Result<()> {
    // containerd's own devices go first; it removes none when it ends.
    let gone = format!(
        "export {NO_UDEV}; dmsetup ls | awk '/^{POOL}-/ {{print $1}}' | xargs -rn1 dmsetup remove; dmsetup remove {POOL}"
    );
    let mut devices = Vec::new();
    for (name, size) in [("metadata", "4M"), ("data", "400M")] {
        let file = format!("{ROOT}/{name}");
        Cmd::new(&["truncate", "-s", size, &file]).run()?.ok()?;
        let device =
            Cmd::new(&["losetup", "-f", "--show", &file]).run()?.ok()?.stdout_text().trim().to_owned();
        undo::remember(&["losetup", "-d", &device])?;
        devices.push(device);
    }
    undo::remember(&["sh", "-c", &gone])?;
    let table = format!("0 819200 thin-pool {} {} 128 0", devices[0], devices[1]);
    Cmd::new(&["env", NO_UDEV, "dmsetup", "create", POOL, "--table", &table]).run()?.ok().map(drop)
}
