//! Snapshotters that give file systems: containerd's erofs and blockfile. Their containers have roots of the guest's own without being
//! asked to.

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx, containerd_version};
use crate::own_containerd::Containerd;
use crate::scenario::Outcome;
use crate::undo;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// Where the second containerd has its data: a disk's file system, as its own layers need.
const ROOT: &str = "/var/lib/krun-scenario-containerd";

/// What is asked of each root: what kind it is, what is of the image and what is written, and an overlay in an overlay.
const SCRIPT: &str = "mount | awk '$3 == \"/\" {print $5}'; ls /bin/busybox; echo written >/x; mkdir /bin/new; cat /x; sync
    mkdir -p /o/l /o/u /o/w /o/m; echo low >/o/l/f; mount -t overlay -o lowerdir=/o/l,upperdir=/o/u,workdir=/o/w o /o/m 2>/dev/null && cat /o/m/f; true";

/// A lone container and a pod of two, in which the second comes later, with each; then one of the same snapshot again.
pub fn snapshotters(ctx: &Ctx) -> Result<Outcome> {
    if containerd_version()? < (2, 1) {
        return Ok(Outcome::Skipped("containerd has no erofs snapshotter before 2.1".to_owned()));
    }
    let containerd = set_up(ctx)?;
    // runc's own overlay takes no other on it, nor does krun's of erofs; ext4 does.
    with(ctx, &containerd, "erofs", "overlay", &["/bin/busybox", "written"])?;
    with(ctx, &containerd, "blockfile", "ext4", &["/bin/busybox", "written", "low"])?;
    containerd.ctr(&["images", "rm", "--sync", BUSYBOX]).run()?.ok()?;
    containerd.stop()?;
    Ok(Outcome::Passed)
}

fn with(ctx: &Ctx, containerd: &Containerd, snapshotter: &str, kind: &str, says: &[&str]) -> Result<()> {
    let flags = ["--snapshotter", snapshotter, "--privileged"];
    let ids @ [lone, pod, member] =
        &["lone", "pod", "member"].map(|name| ctx.id(&format!("{snapshotter}-{name}")));
    let sandbox = format!("--annotation=io.kubernetes.cri.sandbox-id={pod}");
    let start = |id: &str| -> Result<()> {
        let kind = if id == pod { "sandbox" } else { "container" };
        let kind = format!("--annotation=io.kubernetes.cri.container-type={kind}");
        let of_pod: &[&str] = if id == lone { &[] } else { &[&sandbox, &kind] };
        containerd.run(ctx, &[&flags[..], of_pod].concat(), &[BUSYBOX, id, "sleep", "1000"])
    };
    let expected = [&[kind], says].concat().join("\n");
    for id in ids {
        start(id)?;
        let said = containerd.says(id, SCRIPT)?;
        ensure!(said == expected, "in {id} a root says {said:?} and not {expected:?}");
    }
    let on_host = fs::read_to_string("/proc/self/mountinfo")?;
    if ctx.krun() {
        let upper = |line: &&str| line.contains(ROOT) && line.contains("upperdir=");
        ensure!(!on_host.lines().any(|line| upper(&line)), "the host has mounted what a guest writes");
    }
    // The pod's other containers go on without the second one.
    containerd.remove(member)?;
    ensure!(containerd.says(pod, "cat /x")? == "written", "{pod} has lost its root");
    start(member)?;
    ensure!(containerd.says(member, "cat /x 2>/dev/null; echo new")? == "new", "{member} finds an old root");

    // A stopped container finds what it wrote.
    containerd.ctr(&["task", "kill", "--signal", "SIGKILL", lone]).run()?.ok()?;
    crate::wait::until_true("its end", std::time::Duration::from_secs(30), || {
        Ok(containerd.ctr(&["task", "rm", lone]).run()?.stderr_text().contains("137"))
    })?;
    containerd.ctr(&["task", "start", "--detach", "--null-io", lone]).run()?.ok()?;
    ensure!(
        containerd.says(lone, "cat /x; [ -d /bin/new ] && echo kept")? == "written\nkept",
        "{lone} has lost what it wrote"
    );
    for id in [member, pod, lone] {
        containerd.remove(id)?;
    }
    Ok(())
}

/// A containerd that has both, and an image.
fn set_up(ctx: &Ctx) -> Result<Containerd> {
    let scratch = format!("{ROOT}/scratch");
    for module in ["erofs", "loop"] {
        if !Path::new("/sys/module").join(module).exists() {
            undo::remember(&["modprobe", "-r", module])?;
            Cmd::new(&["modprobe", module]).run()?.ok()?;
        }
    }
    undo::remember(&["sh", "-c", &format!("rm -rf {ROOT}")])?;
    undo::remember(&[
        "sh",
        "-c",
        &format!("grep -o '{ROOT}[^ ]*' /proc/self/mounts | sort -ru | xargs -r umount -l; true"),
    ])?;
    fs::create_dir_all(ROOT).context("make a directory")?;
    Cmd::new(&["mke2fs", "-q", "-F", "-t", "ext4", &scratch, "200M"]).run()?.ok()?;
    let lines = format!(
        "[plugins.'io.containerd.service.v1.diff-service']\n  default = ['erofs', 'walking']\n\
         [plugins.'io.containerd.snapshotter.v1.blockfile']\n  root_path = '{ROOT}/blockfile'\n  scratch_file = '{scratch}'\n  \
         fs_type = 'ext4'\n  mount_options = ['loop', 'discard']\n  recreate_scratch = true\n"
    );
    let exported = ctx.work("busybox.tar").display().to_string();
    // Without --local ctr of 2.1 may end before the file's last bytes are written.
    ctx.ctr(&["images", "export", "--local", &exported, BUSYBOX]).run()?.ok()?;
    let containerd = Containerd::start(ctx, ROOT.as_ref(), &lines)?;
    containerd.ctr(&["images", "import", "--no-unpack", &exported]).run()?.ok()?;
    Ok(containerd)
}
