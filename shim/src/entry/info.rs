//! `-info`: what this runtime is and can do, as containerd asks before any container exists.

use std::io::{self, Write};

use containerd_shim_protos::{
    protobuf::{Message, well_known_types::any::Any},
    types::introspection::{RuntimeInfo, RuntimeVersion},
};
use serde_json::json;

use crate::{
    error::{Error, Result},
    id::RUNTIME,
};

/// The features' type. Source: containerd `api/types/introspection.proto`, which says that they
/// are the OCI runtime-spec's `features.Features` as JSON.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Prints the runtime's description.
///
/// # Errors
/// When it cannot be written.
pub fn print() -> Result<()> {
    let info = RuntimeInfo {
        name: RUNTIME.to_owned(),
        version: Some(RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), ..Default::default() })
            .into(),
        features: Some(Any {
            type_url: FEATURES.to_owned(),
            value: features().to_string().into(),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    let bytes = info.write_to_bytes().map_err(|e| Error::internal("encode the runtime's info").because(e))?;
    io::stdout().write_all(&bytes).map_err(|e| Error::internal("print the runtime's info").because(e))
}

/// The mount options that any file system has, which the guest's libcontainer knows and the host's side of a volume
/// keeps. Source: libcontainer 0.7, `rootfs/utils.rs` and `syscall/linux.rs`.
const MOUNT_OPTIONS: &str = "async atime bind defaults dev diratime dirsync exec idmap mand noatime nodev nodiratime noexec \
    nomand norelatime nostrictatime nosuid private ratime rbind rdev rdiratime relatime remount rexec ridmap rnoatime rnodev \
    rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave \
    rstrictatime rsuid rsymfollow runbindable rw shared slave strictatime suid sync unbindable";

/// The hooks that run, all of them on the host.
const HOOKS: [&str; 4] = ["prestart", "createRuntime", "poststart", "poststop"];

/// CRI reads `linux` without looking whether it is there.
fn features() -> serde_json::Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": HOOKS,
        "mountOptions": MOUNT_OPTIONS.split_whitespace().collect::<Vec<_>>(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "cgroup": {"v1": false, "v2": true, "systemd": true, "systemdUser": false, "rdma": false},
            "seccomp": {"enabled": true},
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
        },
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{Features, LinuxNamespaceType};

    use super::*;

    fn typed() -> Features {
        serde_json::from_value(features()).unwrap()
    }

    #[test]
    fn what_a_volume_may_ask_for_is_among_the_mount_options() {
        let features = typed();
        let options = features.mount_options().as_ref().unwrap();
        // CRI looks for rro; the others are those of bundle/mounts.rs.
        for option in ["rro", "ro", "bind", "rbind", "slave", "rslave", "shared", "rshared"] {
            assert!(options.iter().any(|known| known == option), "{option}");
        }
        assert!(options.is_sorted() && options.windows(2).all(|pair| pair[0] != pair[1]), "{options:?}");
    }

    #[test]
    fn systemds_cgroups_and_id_mappings_are_offered() {
        let linux = typed().linux().clone().unwrap();
        assert_eq!(linux.cgroup().as_ref().unwrap().systemd(), &Some(true));
        let extensions = linux.mount_extensions().clone().unwrap();
        assert_eq!(extensions.idmap().as_ref().unwrap().enabled(), &Some(true));
        assert!(linux.namespaces().as_ref().unwrap().contains(&LinuxNamespaceType::User));
    }
}
