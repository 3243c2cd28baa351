//! The OCI specification of a plain container, similar to `ctr run`'s.

pub mod limits;
pub mod mounts;
pub mod user;

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use user::User;

/// Name of the container's host unless it gets another.
pub const HOSTNAME: &str = "krun";

/// The annotation that publishes ports. Source: docs/networking.md.
const PORTS: &str = "io.containerd.krun.ports";

/// A command and what it runs in.
pub struct Process {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub user: User,
    pub capabilities: Vec<&'static str>,
    pub rlimits: Value,
    /// The size of its terminal, as (columns, rows), if it has one.
    pub terminal: Option<(u16, u16)>,
}

/// The network namespace of the VM.
pub enum Namespace {
    /// The one that this process is in.
    Host,
    /// A new one, with nothing in it.
    Empty,
    /// One that was made.
    Path(PathBuf),
}

/// A container.
pub struct Container {
    pub process: Process,
    pub hostname: String,
    /// Its root, from the bundle.
    pub read_only: bool,
    /// Besides those that every container has.
    pub mounts: Vec<Value>,
    pub network: Namespace,
    /// As the annotation lists them; empty for none.
    pub ports: String,
    /// Its cgroup on the host.
    pub cgroup: PathBuf,
}

impl Process {
    /// The process of an OCI spec.
    pub fn json(&self) -> Value {
        let mut process = json!({
            "terminal": self.terminal.is_some(),
            "user": { "uid": self.user.uid, "gid": self.user.gid, "additionalGids": self.user.groups },
            "args": self.args,
            "env": self.env,
            "cwd": self.cwd,
            "noNewPrivileges": true,
            "rlimits": self.rlimits,
        });
        let effective = if self.user.uid == 0 { &self.capabilities[..] } else { &[] };
        process["capabilities"] =
            json!({"bounding": self.capabilities, "effective": effective, "permitted": effective});
        if let Some((columns, rows)) = self.terminal {
            process["consoleSize"] = json!({ "width": columns, "height": rows });
        }
        process
    }
}

impl Container {
    /// The spec.
    pub fn json(&self) -> Value {
        let mut namespaces = vec![
            json!({"type": "pid"}),
            json!({"type": "ipc"}),
            json!({"type": "uts"}),
            json!({"type": "mount"}),
            json!({"type": "cgroup"}),
        ];
        match &self.network {
            Namespace::Host => {}
            Namespace::Empty => namespaces.push(json!({"type": "network"})),
            Namespace::Path(path) => namespaces.push(json!({"type": "network", "path": path})),
        }
        let mut annotations = Map::new();
        if !self.ports.is_empty() {
            annotations.insert(PORTS.to_owned(), self.ports.clone().into());
        }
        let mut all = mounts();
        all.extend(self.mounts.iter().cloned());
        json!({
            "ociVersion": "1.1.0",
            "process": self.process.json(),
            "root": { "path": "rootfs", "readonly": self.read_only },
            "hostname": self.hostname,
            "mounts": all,
            "annotations": annotations,
            "linux": {
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
                "cgroupsPath": self.cgroup,
                "namespaces": namespaces,
                "maskedPaths": [
                    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
                ],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        })
    }
}

fn mounts() -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        mount("/run", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(terminal: Option<(u16, u16)>, uid: u32) -> Value {
        let container = Container {
            process: Process {
                args: vec!["true".to_owned()],
                env: vec!["A=1".to_owned()],
                cwd: "/".to_owned(),
                user: User { uid, gid: 0, groups: vec![4], home: None },
                capabilities: vec!["CAP_KILL"],
                rlimits: limits::rlimits(&[]),
                terminal,
            },
            hostname: HOSTNAME.to_owned(),
            read_only: true,
            mounts: vec![json!({"destination": "/last"})],
            network: Namespace::Empty,
            ports: "80:80".to_owned(),
            cgroup: "/krunctl-run-1-0".into(),
        };
        container.json()
    }

    #[test]
    fn only_a_process_with_a_size_has_a_terminal() {
        let plain = container(None, 0);
        assert_eq!(plain["process"]["terminal"], false);
        assert_eq!(plain["process"]["env"], json!(["A=1"]));
        let tty = container(Some((80, 24)), 0);
        assert_eq!(tty["process"]["terminal"], true);
        assert_eq!(tty["process"]["consoleSize"], json!({ "width": 80, "height": 24 }));
    }

    #[test]
    fn only_root_begins_with_capabilities() {
        assert_eq!(container(None, 0)["process"]["capabilities"]["effective"], json!(["CAP_KILL"]));
        let user = container(None, 7);
        assert_eq!(user["process"]["capabilities"]["effective"], json!([]));
        assert_eq!(user["process"]["capabilities"]["bounding"], json!(["CAP_KILL"]));
        assert_eq!(user["process"]["user"]["additionalGids"], json!([4]));
    }

    #[test]
    fn the_users_mounts_come_last() {
        let spec = container(None, 0);
        assert_eq!(spec["mounts"].as_array().unwrap().last().unwrap()["destination"], "/last");
        assert_eq!(spec["annotations"], json!({PORTS: "80:80"}));
    }
}
