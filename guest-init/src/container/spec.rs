//! Makes the spec that libcontainer gets out of the one that the host sent. It makes explicit what libcontainer would skip
//! or get wrong, and refuses what this guest cannot enforce. Pure.

use std::path::{Component, Path};

use libcontainer::oci_spec::runtime::{
    Capabilities, LinuxCapabilities, LinuxNamespaceType, LinuxResources, Mount, Process, Spec,
};

use crate::rpc::fault::Fault;

/// Longest container or exec id, so that it is a path component anywhere.
const MAX_ID: usize = 128;

/// Ids become path components: `[A-Za-z0-9][A-Za-z0-9_.-]*`.
pub fn check_id(id: &str) -> Result<(), Fault> {
    let good = id.len() <= MAX_ID
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if good {
        return Ok(());
    }
    Err(Fault::invalid(format!(
        "invalid id {id:?}: at most {MAX_ID} of A-Z a-z 0-9 _ . -, a letter or digit first"
    )))
}

/// Adapts the spec of container `id` for libcontainer.
pub fn prepare(mut spec: Spec, id: &str, terminal: bool) -> Result<Spec, Fault> {
    let root = spec.root().as_ref().ok_or_else(|| Fault::invalid("the spec has no root"))?;
    if !root.path().is_absolute() {
        return Err(Fault::invalid(format!("root.path {:?} is not absolute", root.path())));
    }
    let process = spec.process_mut().as_mut().ok_or_else(|| Fault::invalid("the spec has no process"))?;
    process.set_terminal(Some(terminal));
    prepare_process(process)?;
    // The host runs them.
    spec.set_hooks(None);
    for mount in spec.mounts_mut().iter_mut().flatten() {
        prepare_mount(mount);
    }
    prepare_linux(&mut spec, id)?;
    Ok(spec)
}

/// Options that libcontainer drops, as it takes them for a mount's own: they are the file system's. With an empty value it passes them
/// on, and the kernel does not look at that. Source: `vfs_parse_sb_flag` in the kernel's fs/fs_context.c.
fn prepare_mount(mount: &mut Mount) {
    let options = mount.options().clone().unwrap_or_default();
    let is_bind = options.iter().any(|option| option == "bind" || option == "rbind");
    if !is_bind && mount.typ().as_deref() != Some("bind") {
        let prepared = options.into_iter().map(|option| match option.as_str() {
            "sync" | "dirsync" | "lazytime" => format!("{option}="),
            _ => option,
        });
        mount.set_options(Some(prepared.collect()));
    }
}

/// Prepares a container's first process, or an exec.
pub fn prepare_process(process: &mut Process) -> Result<(), Fault> {
    if process.args().as_deref().unwrap_or_default().is_empty() {
        return Err(Fault::invalid("process.args is empty"));
    }
    if !process.cwd().is_absolute() {
        return Err(Fault::invalid(format!(
            "process.cwd {:?}: it must be an absolute path",
            process.cwd().display().to_string()
        )));
    }
    for (label, value) in [
        ("process.apparmorProfile", process.apparmor_profile()),
        ("process.selinuxLabel", process.selinux_label()),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            return Err(Fault::precondition(format!(
                "{label} {value:?}: the guest's kernel cannot enforce it"
            )));
        }
    }
    process.set_apparmor_profile(None);
    process.set_selinux_label(None);
    // With an explicit "false", libcontainer loads the filter after it has dropped the capabilities.
    if process.no_new_privileges() == Some(false) {
        process.set_no_new_privileges(None);
    }
    Ok(())
}

/// All five sets. libcontainer leaves a missing set as it is, which is PID 1's: everything.
pub fn explicit_capabilities(wanted: Option<&LinuxCapabilities>) -> LinuxCapabilities {
    let set = |get: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
        Some(wanted.and_then(|caps| get(caps).clone()).unwrap_or_default())
    };
    let mut caps = LinuxCapabilities::default();
    caps.set_bounding(set(LinuxCapabilities::bounding))
        .set_effective(set(LinuxCapabilities::effective))
        .set_permitted(set(LinuxCapabilities::permitted))
        .set_inheritable(set(LinuxCapabilities::inheritable))
        .set_ambient(set(LinuxCapabilities::ambient));
    caps
}

fn prepare_linux(spec: &mut Spec, id: &str) -> Result<(), Fault> {
    if let Some(process) = spec.process_mut() {
        let caps = explicit_capabilities(process.capabilities().as_ref());
        process.set_capabilities(Some(caps));
    }
    let linux = spec.linux_mut().as_mut().ok_or_else(|| Fault::invalid("the spec has no linux part"))?;
    let own_mounts = linux
        .namespaces()
        .iter()
        .flatten()
        .any(|ns| ns.typ() == LinuxNamespaceType::Mount && ns.path().is_none());
    if !own_mounts {
        return Err(Fault::invalid("linux.namespaces has no mount namespace of the container's own"));
    }
    if linux.intel_rdt().is_some() {
        return Err(Fault::precondition("linux.intelRdt: the guest cannot enforce it"));
    }
    if linux.seccomp().as_ref().is_some_and(libcontainer::seccomp::is_notify) {
        return Err(Fault::precondition("linux.seccomp: SCMP_ACT_NOTIFY needs an agent on the host"));
    }
    // libcontainer knows "shared" and "slave" only, and does for them what "rshared" and "rslave" ask for.
    if let Some(kind) = linux.rootfs_propagation().as_deref().and_then(|kind| kind.strip_prefix('r')) {
        let kind = kind.to_owned();
        linux.set_rootfs_propagation(Some(kind));
    }
    // Without resources libcontainer would install no device rules.
    if linux.resources().is_none() {
        linux.set_resources(Some(LinuxResources::default()));
    }
    match linux.cgroups_path() {
        None => {
            linux.set_cgroups_path(Some(Path::new("/krun").join(id)));
        }
        Some(path) => {
            let plain =
                path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            if !path.is_absolute() || !plain || path.parent().is_none() {
                return Err(Fault::invalid(format!(
                    "linux.cgroupsPath {path:?} is not a plain absolute path"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> Result<Spec, Fault> {
        prepare(serde_json::from_value(json).unwrap(), "c1", false)
    }

    fn minimal() -> serde_json::Value {
        serde_json::json!({
            "ociVersion": "1.1.0",
            "root": {"path": "/containers/c1/rootfs"},
            "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "noNewPrivileges": false},
            "linux": {"namespaces": [{"type": "mount"}]},
        })
    }

    #[test]
    fn what_libcontainer_would_skip_is_explicit() {
        let mut json = minimal();
        json["hooks"] = serde_json::json!({"startContainer": [{"path": "/bin/true"}]});
        let spec = spec(json).unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.no_new_privileges(), None);
        let caps = process.capabilities().as_ref().unwrap();
        for set in [caps.bounding(), caps.effective(), caps.permitted(), caps.inheritable(), caps.ambient()] {
            assert!(set.as_ref().unwrap().is_empty());
        }
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.resources().is_some());
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/krun/c1")));
        assert!(spec.hooks().is_none());
    }

    #[test]
    fn the_root_propagates_as_asked() {
        for (asked, expected) in [("rslave", "slave"), ("rshared", "shared"), ("private", "private")] {
            let mut json = minimal();
            json["linux"]["rootfsPropagation"] = asked.into();
            let spec = spec(json).unwrap();
            assert_eq!(spec.linux().as_ref().unwrap().rootfs_propagation().as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_file_systems_own_options_reach_it() {
        let mut json = minimal();
        json["mounts"] = serde_json::json!([
            {"destination": "/a", "type": "tmpfs", "source": "tmpfs", "options": ["sync", "nosuid", "dirsync", "size=1m"]},
            {"destination": "/b", "type": "bind", "source": "/x", "options": ["rbind", "sync"]},
        ]);
        let spec = spec(json).unwrap();
        let options = |index: usize| spec.mounts().as_ref().unwrap()[index].options().clone().unwrap();
        assert_eq!(options(0), ["sync=", "nosuid", "dirsync=", "size=1m"]);
        assert_eq!(options(1), ["rbind", "sync"]);
    }

    #[test]
    fn what_cannot_be_enforced_is_refused() {
        for (pointer, value) in [
            ("/process/apparmorProfile", serde_json::json!("docker-default")),
            ("/process/selinuxLabel", serde_json::json!("x")),
            ("/linux/intelRdt", serde_json::json!({})),
            ("/linux/cgroupsPath", serde_json::json!("/krun/../x")),
            ("/linux/cgroupsPath", serde_json::json!("/")),
            ("/linux/namespaces", serde_json::json!([])),
            ("/process/args", serde_json::json!([])),
            ("/root/path", serde_json::json!("rootfs")),
            ("/process/cwd", serde_json::json!("tmp")),
        ] {
            let mut json = minimal();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            json.pointer_mut(parent).unwrap()[key] = value;
            assert!(spec(json).is_err(), "{pointer}");
        }
    }

    #[test]
    fn ids_are_path_components() {
        for good in ["a", "0", "redis-1_x.y", &"a".repeat(128)] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ä", &"a".repeat(129)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
