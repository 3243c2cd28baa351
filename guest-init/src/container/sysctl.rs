//! Sysctls of namespaces that a container shares with the VM. The VM is the sandbox, so they are
//! the container's to set; libcontainer takes them for the host's and refuses.

use std::fs;
use std::path::{Component, Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::fault::{Fault, errno_text};

/// One value and the file it belongs in, below /proc/sys.
type Setting = (PathBuf, String);

/// Takes those sysctls out of the spec whose namespace it does not ask for.
pub fn take_shared(spec: &mut Spec) -> Result<Vec<Setting>, Fault> {
    let Some(linux) = spec.linux_mut() else { return Ok(Vec::new()) };
    let asked: Vec<_> = linux.namespaces().iter().flatten().map(|ns| ns.typ()).collect();
    let shared = |key: &str| namespace_of(key).is_some_and(|kind| !asked.contains(&kind));
    let Some(all) = linux.sysctl().clone() else { return Ok(Vec::new()) };
    let (ours, theirs) =
        all.into_iter().partition::<std::collections::HashMap<_, _>, _>(|(key, _)| shared(key));
    linux.set_sysctl(Some(theirs));
    ours.into_iter().map(|(key, value)| Ok((file_of(&key)?, value))).collect()
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

fn namespace_of(key: &str) -> Option<LinuxNamespaceType> {
    const IPC: [&str; 4] = ["kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue."];
    if key.starts_with("net.") {
        Some(LinuxNamespaceType::Network)
    } else if IPC.iter().any(|prefix| key.starts_with(prefix)) {
        Some(LinuxNamespaceType::Ipc)
    } else {
        None
    }
}

fn file_of(key: &str) -> Result<PathBuf, Fault> {
    let file = PathBuf::from(key.replace('.', "/"));
    if file.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(file);
    }
    Err(Fault::invalid(format!("linux.sysctl {key:?} is no sysctl's name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(namespaces: &[&str], keys: &[&str]) -> Vec<PathBuf> {
        let sysctl: serde_json::Map<_, _> = keys.iter().map(|key| (key.to_string(), "1".into())).collect();
        let namespaces: Vec<_> = namespaces.iter().map(|kind| serde_json::json!({"type": kind})).collect();
        let json = serde_json::json!({
            "ociVersion": "1.1.0", "root": {"path": "/r"}, "linux": {"namespaces": namespaces, "sysctl": sysctl},
        });
        let mut spec = serde_json::from_value(json).unwrap();
        let mut files: Vec<_> = take_shared(&mut spec).unwrap().into_iter().map(|(file, _)| file).collect();
        files.sort();
        files
    }

    #[test]
    fn only_those_of_shared_namespaces_are_taken() {
        let keys = ["net.ipv4.ip_forward", "kernel.shmmax", "vm.swappiness"];
        assert_eq!(taken(&["mount"], &keys), [Path::new("kernel/shmmax"), Path::new("net/ipv4/ip_forward")]);
        assert_eq!(taken(&["mount", "network", "ipc"], &keys), Vec::<PathBuf>::new());
    }

    #[test]
    fn names_do_not_climb() {
        assert!(
            file_of("net.../etc").is_err()
                || !file_of("net.../etc").unwrap().to_string_lossy().contains("..")
        );
        assert!(file_of("/net").is_err());
    }
}
