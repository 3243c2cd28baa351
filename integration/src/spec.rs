//! OCI specs for `ctr run --config`, where flags cannot say what a scenario needs.
//!
//! Such a container has no snapshot: its root is a directory of the box, with busybox in it.

use crate::command::Cmd;
use crate::ctx::{Ctx, WORK};
use crate::undo;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];
const APPLETS: [&str; 8] = ["sh", "cat", "true", "sleep", "mkdir", "ls", "echo", "uname"];

/// containerd's default spec with a fresh root directory, this id and these arguments.
pub fn new(ctx: &Ctx, id: &str, args: &[&str]) -> Result<Value> {
    let text = ctx.ctr(&["oci", "spec"]).run()?.ok()?.stdout;
    let mut spec: Value = serde_json::from_slice(&text).context("the output of ctr oci spec")?;
    spec["process"]["args"] = json!(args);
    spec["process"]["env"] = json!(["PATH=/bin"]);
    spec["process"]["cwd"] = json!("/");
    spec["root"] = json!({ "path": busybox_root(&ctx.work(&format!("{id}.rootfs")))? });
    spec["linux"]["cgroupsPath"] = json!(format!("/default/{id}"));
    Ok(spec)
}

/// The same with an image's files, writable, and its usual environment.
pub fn of_image(ctx: &Ctx, image: &str, id: &str, args: &[&str]) -> Result<Value> {
    let mut spec = new(ctx, id, args)?;
    let root = ctx.work(&format!("{id}.image"));
    fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
    let target = root.display().to_string();
    undo::remember(&["ctr", "image", "unmount", "--rm", &target])?;
    ctx.ctr(&["image", "mount", "--rw", image, &target]).run()?.ok()?;
    spec["root"] = json!({ "path": root });
    spec["process"]["env"] = json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
    Ok(spec)
}

/// `ctr run FLAGS… --config SPEC ID`
pub fn run(ctx: &Ctx, flags: &[&str], spec: &Value, id: &str) -> Result<Cmd> {
    let path = ctx.work(&format!("{id}.json"));
    fs::write(&path, serde_json::to_vec(spec)?).with_context(|| format!("write {}", path.display()))?;
    let path = path.display().to_string();
    Ok(ctx.run_as(ctx.runtime.containerd_name(), &[flags, &["--config", &path]].concat(), &[id]))
}

/// Makes a root file system with the box's static busybox.
pub fn busybox_root(root: &Path) -> Result<PathBuf> {
    let busybox = BUSYBOX.iter().find(|p| Path::new(p).exists()).context("the box has no busybox")?;
    for dir in ["bin", "etc", "proc", "sys", "dev", "run", "tmp"] {
        fs::create_dir_all(root.join(dir)).with_context(|| format!("make {dir} in {}", root.display()))?;
    }
    fs::copy(busybox, root.join("bin/busybox")).context("copy busybox")?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).with_context(|| format!("link {applet}"))?;
    }
    debug_assert!(root.starts_with(WORK), "the runner empties only {WORK}");
    Ok(root.to_owned())
}
