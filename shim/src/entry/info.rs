//! `-info`: what this runtime is and can do, as containerd asks before any container exists.

use std::io::{self, Write};

use containerd_shim_protos::{
    protobuf::{Message, well_known_types::any::Any},
    types::introspection::{RuntimeInfo, RuntimeVersion},
};
use serde_json::json;

use crate::{
    RUNTIME,
    error::{Error, Result},
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
    let bytes =
        info.write_to_bytes().map_err(|e| Error::internal(format!("encode the runtime's info: {e}")))?;
    io::stdout().write_all(&bytes).map_err(|e| Error::internal(format!("print the runtime's info: {e}")))
}

/// CRI reads `linux` without looking whether it is there.
fn features() -> serde_json::Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "mountOptions": ["bind", "rbind", "ro", "rw", "nosuid", "nodev", "noexec", "rro", "private", "rprivate", "slave", "rslave"],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "cgroup": {"v1": false, "v2": true, "systemd": false, "systemdUser": false, "rdma": false},
            "seccomp": {"enabled": true},
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": false}},
        },
    })
}
