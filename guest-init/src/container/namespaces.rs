//! Namespaces that a container shares with another one in the VM, as the containers of a pod do, or with the VM.

use std::path::PathBuf;

use guest_protocol::boot::NAMESPACE_OF;
use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::rpc::fault::Fault;
use crate::vm::users;

/// Replaces each path that names another container by the path of that container's namespace. `pid_of` knows the first
/// process of a container. A user namespace is the VM's: what belongs to one user namespace is shared in it alone.
pub fn join(spec: &mut Spec, pid_of: impl Fn(&str) -> Result<i32, Fault>) -> Result<(), Fault> {
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    for namespace in linux.namespaces_mut().iter_mut().flatten() {
        if namespace.typ() == LinuxNamespaceType::User {
            namespace.set_path(Some(users::PATH.into()));
            continue;
        }
        let Some(path) = namespace.path() else { continue };
        let container = path.to_str().and_then(|path| path.strip_prefix(NAMESPACE_OF));
        let (Some(container), Some(file)) = (container, file_of(namespace.typ())) else {
            return Err(Fault::invalid(format!("linux.namespaces: {path:?} is not a namespace of this VM")));
        };
        let pid = pid_of(container)?;
        namespace.set_path(Some(PathBuf::from(format!("/proc/{pid}/ns/{file}"))));
    }
    Ok(())
}

/// Its name below /proc/<pid>/ns; `None` for a kind that containers of a VM never share.
fn file_of(kind: LinuxNamespaceType) -> Option<&'static str> {
    match kind {
        LinuxNamespaceType::Ipc => Some("ipc"),
        LinuxNamespaceType::Uts => Some("uts"),
        LinuxNamespaceType::Pid => Some("pid"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(namespaces: serde_json::Value) -> Result<serde_json::Value, Fault> {
        let spec = serde_json::json!({"ociVersion": "1.1.0", "linux": {"namespaces": namespaces}});
        let mut spec: Spec = serde_json::from_value(spec).unwrap();
        join(&mut spec, |id| match id {
            "pod" => Ok(7),
            _ => Err(Fault::not_found("no such container")),
        })?;
        Ok(serde_json::to_value(spec).unwrap()["linux"]["namespaces"].clone())
    }

    #[test]
    fn another_containers_namespaces_are_its_processs() {
        let before = serde_json::json!([{"type": "uts", "path": "/containers/pod"}, {"type": "mount"}]);
        let after = serde_json::json!([{"type": "uts", "path": "/proc/7/ns/uts"}, {"type": "mount"}]);
        assert_eq!(joined(before).unwrap(), after);
    }

    #[test]
    fn what_is_no_containers_is_refused() {
        for (kind, path) in
            [("ipc", "/proc/1/ns/ipc"), ("ipc", "/containers/other"), ("mount", "/containers/pod")]
        {
            assert!(joined(serde_json::json!([{"type": kind, "path": path}])).is_err(), "{path}");
        }
    }
}
