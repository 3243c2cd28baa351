//! Sysctls of namespaces that a container shares with the VM. The VM is the sandbox, so the container may set them;
//! libcontainer would refuse, as it takes these namespaces for the host's.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::rpc::fault::{Fault, errno_text};

/// One value, and its file below /proc/sys.
type Setting = (PathBuf, String);

/// Takes those sysctls out of the spec whose namespace is the VM's. The others stay, for libcontainer.
pub fn take_shared(spec: &mut Spec) -> Result<Vec<Setting>, Fault> {
    let Some(linux) = spec.linux_mut() else { return Ok(Vec::new()) };
    let own: Vec<_> = linux.namespaces().iter().flatten().map(|ns| ns.typ()).collect();
    let Some(all) = linux.sysctl().clone() else { return Ok(Vec::new()) };
    let mut shared = Vec::new();
    let mut rest = HashMap::new();
    for (key, value) in all {
        let file = file_of(&key)?;
        match namespace_of(&file) {
            Some(kind) if !own.contains(&kind) => shared.push((PathBuf::from(file), value)),
            _ => drop(rest.insert(for_libcontainer(&file).unwrap_or(key), value)),
        }
    }
    linux.set_sysctl(Some(rest));
    Ok(shared)
}

/// Sets them for the VM.
pub fn apply(settings: &[Setting]) -> Result<(), Fault> {
    for (file, value) in settings {
        let path = Path::new("/proc/sys").join(file);
        fs::write(&path, value).map_err(|err| {
            Fault::invalid(format!("write sysctl {value:?} to {}: {}", path.display(), errno_text(&err)))
        })?;
    }
    Ok(())
}

/// The namespace that the sysctl of this file belongs to.
fn namespace_of(file: &str) -> Option<LinuxNamespaceType> {
    const IPC: [&str; 4] = ["kernel/msg", "kernel/sem", "kernel/shm", "fs/mqueue/"];
    if file.starts_with("net/") {
        Some(LinuxNamespaceType::Network)
    } else if IPC.iter().any(|prefix| file.starts_with(prefix)) {
        Some(LinuxNamespaceType::Ipc)
    } else {
        None
    }
}

/// The file of a sysctl, below /proc/sys. When the first separator of its name is a dot, dots separate the parts and a
/// slash stands for a dot within one (`net.ipv4.conf.eth0/1.forwarding`); else it is the other way round. Source:
/// sysctl.d(5).
fn file_of(key: &str) -> Result<String, Fault> {
    let dots = key.find(['.', '/']).is_some_and(|first| key[first..].starts_with('.'));
    let file: String = key
        .chars()
        .map(|c| match c {
            '.' if dots => '/',
            '/' if dots => '.',
            other => other,
        })
        .collect();
    if file.split('/').all(|part| !["", ".", ".."].contains(&part)) && !file.contains('\0') {
        return Ok(file);
    }
    Err(Fault::invalid(format!("linux.sysctl {key:?} is not the name of a sysctl")))
}

/// The name by which libcontainer knows the sysctl of this file: it takes every dot for a separator. `None` when a part of
/// the name has a dot.
fn for_libcontainer(file: &str) -> Option<String> {
    (!file.contains('.')).then(|| file.replace('/', "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is taken, and what is left for libcontainer.
    fn split(namespaces: &[&str], keys: &[&str]) -> Result<(Vec<PathBuf>, Vec<String>), Fault> {
        let sysctl: serde_json::Map<_, _> = keys.iter().map(|key| (key.to_string(), "1".into())).collect();
        let namespaces: Vec<_> = namespaces.iter().map(|kind| serde_json::json!({"type": kind})).collect();
        let json = serde_json::json!({
            "ociVersion": "1.1.0", "root": {"path": "/r"}, "linux": {"namespaces": namespaces, "sysctl": sysctl},
        });
        let mut spec: Spec = serde_json::from_value(json).unwrap();
        let mut files: Vec<_> = take_shared(&mut spec)?.into_iter().map(|(file, _)| file).collect();
        files.sort();
        let mut left: Vec<_> =
            spec.linux().as_ref().unwrap().sysctl().iter().flatten().map(|(key, _)| key.clone()).collect();
        left.sort();
        Ok((files, left))
    }

    #[test]
    fn only_those_of_shared_namespaces_are_taken() {
        let keys = ["net.ipv4.ip_forward", "kernel/shmmax", "vm.swappiness"];
        let (taken, left) = split(&["mount"], &keys).unwrap();
        assert_eq!(taken, [Path::new("kernel/shmmax"), Path::new("net/ipv4/ip_forward")]);
        assert_eq!(left, ["vm.swappiness"]);
        let (taken, left) = split(&["mount", "network", "ipc"], &keys).unwrap();
        assert_eq!(taken, Vec::<PathBuf>::new());
        assert_eq!(left, ["kernel.shmmax", "net.ipv4.ip_forward", "vm.swappiness"]);
    }

    #[test]
    fn an_interfaces_name_may_have_a_dot() {
        for key in ["net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"] {
            let (taken, _) = split(&["mount"], &[key]).unwrap();
            assert_eq!(taken, [Path::new("net/ipv4/conf/eth0.1/forwarding")]);
        }
    }

    #[test]
    fn no_name_leaves_proc_sys() {
        // With dots as separators, two slashes are "..".
        for key in [
            "net.//.//.etc.passwd",
            "net.ipv4.//.x",
            "net/../../etc/passwd",
            "net/ipv4/./x",
            "/etc/passwd",
            ".net.x",
            "net..x",
            "net.",
            "",
            "net.x\0y",
        ] {
            assert!(file_of(key).is_err(), "{key:?} is {:?}", file_of(key));
            assert!(split(&["mount"], &[key]).is_err(), "{key:?}");
        }
    }
}
