//! Launches the hostile vmm by the shim, and reads what it reports.

use crate::command::Cmd;
use crate::containerd_log::{self, Mark};
use crate::ctx::{BUSYBOX, Ctx};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

const HOSTILE_VMM: &str = "/usr/local/libexec/krun/krun-hostile-vmm";
const GUEST_INIT: &str = "/usr/local/libexec/krun/guest-init";

/// Begins each line of the log that is for the scenario.
const PREFIX: &str = "hostile-vmm: ";

/// Memory of the VM: the limit of descriptors and of the cgroup's memory follow from it.
pub const MEMORY_MIB: u32 = 192;

/// A container whose vmm is hostile.
pub struct Launch {
    pub id: String,
    config: String,
    volume: String,
    mark: Mark,
    /// Listens in the volume.
    _socket: UnixListener,
}

impl Launch {
    /// Prepares one that makes this attack.
    pub fn new(ctx: &Ctx, suffix: &str, attack: &str) -> Result<Launch> {
        let id = ctx.id(suffix);
        let program = ctx.work(&format!("{id}.init"));
        let mut bytes = fs::read(GUEST_INIT).with_context(|| format!("read {GUEST_INIT}"))?;
        bytes.extend_from_slice(format!("\nHOSTILE={attack} {id}\n").as_bytes());
        fs::write(&program, bytes).with_context(|| format!("write {}", program.display()))?;
        let config = ctx.work(&format!("{id}.toml"));
        let text = format!(
            "vmm = {HOSTILE_VMM:?}\nguest_init = {:?}\ndefault_memory_mib = {MEMORY_MIB}\n",
            program.display().to_string()
        );
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let volume = ctx.work(&format!("{id}.volume"));
        let socket = fill(&volume).with_context(|| format!("fill {}", volume.display()))?;
        let (config, volume) = (config.display().to_string(), volume.display().to_string());
        Ok(Launch { id, config, volume, mark: containerd_log::mark(), _socket: socket })
    }

    /// `ctr run` of its container, which has the volume.
    pub fn run(&self, ctx: &Ctx, flags: &[&str]) -> Cmd {
        self.container(ctx, flags, &["sleep", "1000"])
    }

    /// As [`Launch::run`], with a command.
    pub fn container(&self, ctx: &Ctx, flags: &[&str], command: &[&str]) -> Cmd {
        let mount = format!("type=bind,src={},dst=/vol,options=rbind:rw", self.volume);
        let own = ["--rm", "--runtime-config-path", &self.config, "--mount", &mount];
        ctx.run(&[&own, flags].concat(), BUSYBOX, &self.id, command)
    }

    /// The lines that it has reported.
    pub fn reports(&self) -> Result<Vec<String>> {
        let log = self.mark.since()?;
        let lines = log.lines().filter_map(|line| Some(line.split_once(PREFIX)?.1));
        Ok(lines.map(|line| line.split('"').next().unwrap_or_default().to_owned()).collect())
    }
}

/// The files that the tries want: a mark, a link out, a device, a program, and a socket of the box.
fn fill(volume: &Path) -> Result<UnixListener> {
    fs::create_dir(volume)?;
    fs::write(volume.join("mark"), "")?;
    symlink("/etc/shadow", volume.join("shadow"))?;
    let device = volume.join("mem").display().to_string();
    Cmd::new(&["mknod", &device, "c", "1", "1"]).run()?.ok()?;
    fs::copy("/bin/busybox", volume.join("program"))?;
    fs::set_permissions(volume.join("program"), fs::Permissions::from_mode(0o755))?;
    Ok(UnixListener::bind(volume.join("socket"))?)
}

/// The annotations of a pod's sandbox.
pub fn sandbox(id: &str) -> [String; 2] {
    ["io.kubernetes.cri.container-type=sandbox", &format!("io.kubernetes.cri.sandbox-id={id}")]
        .map(|annotation| format!("--annotation={annotation}"))
}

/// Has the launched vmm itself make a try. `ctr run` must fail in these words.
pub fn alone(ctx: &Ctx, name: &str, reason: &str) -> Result<String> {
    let suffix: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let launch = Launch::new(ctx, &suffix, &format!("alone:{name}"))?;
    launch.run(ctx, &[]).run()?.refused(&[reason])?;
    let lines = launch.reports()?;
    let got = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Ok(got.unwrap_or_default().to_owned())
}
