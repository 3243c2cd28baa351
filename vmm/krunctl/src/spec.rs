//! The OCI specification of a plain container, similar to `ctr run`'s. The container has namespaces of its own within the
//! guest, but shares the guest's network.

use guest_protocol::boot;
use serde_json::{Value, json};

use crate::container::CONTAINER;

/// Host name of the guest and its container.
pub const HOSTNAME: &str = "krun";

/// The default set of containerd and Docker. Source: containerd's `oci.defaultUnixCaps`.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The specification for `command`; `size` is the terminal's, as (columns, rows), if it has one.
pub fn make(command: &[String], env: &[String], size: Option<(u16, u16)>) -> Value {
    let mut spec = json!({
        "ociVersion": "1.1.0",
        "process": {
            "terminal": size.is_some(),
            "user": { "uid": 0, "gid": 0 },
            "args": command,
            "env": env,
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES
            },
            "noNewPrivileges": true,
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096 }],
        },
        "root": { "path": format!("/{}", boot::rootfs_path(CONTAINER)), "readonly": false },
        "hostname": HOSTNAME,
        "mounts": mounts(),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "cgroupsPath": "/run",
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" }
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    if let Some((columns, rows)) = size {
        spec["process"]["consoleSize"] = json!({ "width": columns, "height": rows });
    }
    spec
}

fn mounts() -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    json!([
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        mount("/run", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_spec_with_a_size_has_a_terminal() {
        let plain = make(&["true".into()], &["A=1".into()], None);
        assert_eq!(plain["process"]["terminal"], false);
        assert_eq!(plain["root"]["path"], "/containers/run/rootfs");
        assert_eq!(plain["process"]["env"], json!(["A=1"]));
        let tty = make(&["sh".into()], &[], Some((80, 24)));
        assert_eq!(tty["process"]["terminal"], true);
        assert_eq!(tty["process"]["consoleSize"], json!({ "width": 80, "height": 24 }));
    }
}
