//! A containerd whose CRI plugin knows krun as the drop-in that we ship says, has a sandbox image and a bridge; and
//! `crictl` for it.

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx, containerd_version};
use crate::undo;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What an administrator of containerd 2 imports.
const DROP_IN: &str = include_str!("../../deploy/containerd/krun-2.toml");
const CONFIG: &str = "/etc/containerd/config.toml";
const BRIDGE: &str = "/etc/cni/net.d/10-krun.conflist";
const BRIDGE_DEVICE: &str = "krun-cni0";
const PAUSE: &str = "localhost/pause:1";
/// Where the CRI plugin keeps its images.
const NAMESPACE: &str = "k8s.io";
const ENDPOINT: &str = "unix:///run/containerd/containerd.sock";

/// `crictl ARGS…`
pub fn crictl(args: &[&str]) -> Cmd {
    // Its own patience is two seconds; a VM needs more in an emulated box.
    Cmd::new(&[&["crictl", "--runtime-endpoint", ENDPOINT, "--timeout", "100s"], args].concat())
}

/// The CRI's name for a runtime.
pub fn handler(ctx: &Ctx) -> &'static str {
    if ctx.krun() { "krun" } else { "runc" }
}

/// What a crictl command prints, without the last line's end.
pub fn says(args: &[&str]) -> Result<String> {
    Ok(crictl(args).run()?.ok()?.stdout_text().trim().to_owned())
}

/// A file for crictl with the configuration of a pod or a container.
pub fn file(ctx: &Ctx, name: &str, value: &Value) -> Result<String> {
    let path = ctx.work(&format!("{name}.json"));
    fs::write(&path, value.to_string()).with_context(|| format!("write {}", path.display()))?;
    Ok(path.display().to_string())
}

/// Why a box's containerd cannot be [`set_up`], if it cannot.
pub fn unsuitable() -> Result<Option<String>> {
    let suitable = containerd_version()? >= (2, 0);
    Ok((!suitable).then(|| "its configuration is for containerd 2".to_owned()))
}

/// Configures the box's containerd and restarts it; undone with the scenario.
pub fn set_up(ctx: &Ctx) -> Result<()> {
    let drop_in = ctx.work("krun.toml");
    fs::write(&drop_in, DROP_IN).context("write the drop-in")?;
    let config = format!(
        "version = 3\nimports = ['{}']\n[plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = '{PAUSE}'\n",
        drop_in.display()
    );
    let bridge = json!({"cniVersion": "1.0.0", "name": "krun", "plugins": [{
        "type": "bridge", "bridge": BRIDGE_DEVICE, "isGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }]});
    undo::remember(&["containerd-ctl", "restart"])?;
    undo::remember(&["sh", "-c", &format!("ip link del {BRIDGE_DEVICE} 2>/dev/null; true")])?;
    let images = format!("ctr -n {NAMESPACE} images ls -q | xargs -r ctr -n {NAMESPACE} images rm --sync");
    undo::remember(&["sh", "-c", &images])?;
    let pods = format!(
        "crictl --runtime-endpoint {ENDPOINT} --timeout 100s rmp --all --force >/dev/null 2>&1; true"
    );
    undo::remember(&["sh", "-c", &pods])?;
    write(CONFIG, &config)?;
    write(BRIDGE, &bridge.to_string())?;
    Cmd::new(&["containerd-ctl", "restart"]).run()?.ok()?;
    let exported = ctx.work("busybox.tar").display().to_string();
    // Without --local ctr of 2.1 may end before the file's last bytes are written.
    ctx.ctr(&["images", "export", "--local", &exported, BUSYBOX]).run()?.ok()?;
    let pause = pause_image(ctx, &exported)?;
    for archive in [&exported, &pause] {
        ctx.ctr(&["--namespace", NAMESPACE, "images", "import", archive]).run()?.ok()?;
    }
    Ok(())
}

fn write(path: &str, text: &str) -> Result<()> {
    undo::remember(&["rm", path])?;
    fs::create_dir_all(Path::new(path).parent().context("a directory")?)
        .with_context(|| format!("make the directory of {path}"))?;
    fs::write(path, text).with_context(|| format!("write {path}"))
}

/// The busybox image once more, with another name and a command that sleeps: what a pod's sandbox runs.
fn pause_image(ctx: &Ctx, busybox: &str) -> Result<String> {
    let layout = ctx.work("pause");
    fs::create_dir_all(&layout).context("make a directory")?;
    let at = layout.display().to_string();
    Cmd::new(&["tar", "-x", "-f", busybox, "-C", &at]).run()?.ok()?;
    let read = |path: &Path| -> Result<Value> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))
    };
    let blob = |descriptor: &Value| -> Result<std::path::PathBuf> {
        let digest = descriptor["digest"].as_str().context("a descriptor without a digest")?;
        Ok(layout.join("blobs").join(digest.replace(':', "/")))
    };
    let store = |descriptor: &mut Value, value: &Value| -> Result<()> {
        let text = value.to_string();
        let sum = Cmd::new(&["sha256sum"]).stdin(text.clone()).run()?.ok()?.stdout_text();
        let sum = sum.split(' ').next().context("a sum")?;
        descriptor["digest"] = json!(format!("sha256:{sum}"));
        descriptor["size"] = json!(text.len());
        fs::write(blob(descriptor)?, text).context("write a blob")
    };
    let mut index = read(&layout.join("index.json"))?;
    let mut manifest = read(&blob(&index["manifests"][0])?)?;
    let mut config = read(&blob(&manifest["config"])?)?;
    config["config"]["Cmd"] = json!(["sleep", "1000000"]);
    store(&mut manifest["config"], &config)?;
    store(&mut index["manifests"][0], &manifest)?;
    index["manifests"][0]["annotations"] = json!({"io.containerd.image.name": PAUSE});
    fs::write(layout.join("index.json"), index.to_string()).context("write the index")?;
    // The older description of the same image, which names it as well.
    let _ = fs::remove_file(layout.join("manifest.json"));
    let archive = ctx.work("pause.tar").display().to_string();
    Cmd::new(&["tar", "-c", "-f", &archive, "-C", &at, "."]).run()?.ok()?;
    Ok(archive)
}
