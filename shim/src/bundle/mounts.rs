//! The mounts of a spec: what is the host's goes through the share, the rest is the guest's.

use std::path::Path;

use guest_init::boot::{socket_path, volume_path};
use oci_spec::runtime::Mount;

use super::{GuestBundle, Volume, transform::Context};
use crate::error::Result;

/// Where it is mounted, in the VM as in each container.
const SHARED_MEMORY: &str = "/dev/shm";

/// /dev/shm is the guest's own memory, also where the spec binds the host's.
pub fn shared_memory(mut bundle: GuestBundle, _: &Context) -> Result<GuestBundle> {
    for mount in bundle.spec.mounts_mut().iter_mut().flatten() {
        if mount.destination() == Path::new(SHARED_MEMORY) && is_bind(mount) {
            mount.set_typ(Some("tmpfs".to_owned()));
            mount.set_source(Some("shm".into()));
            let options = ["nosuid", "noexec", "nodev", "mode=1777"].map(str::to_owned);
            mount.set_options(Some(options.to_vec()));
        }
    }
    Ok(bundle)
}

/// In a pod it is the VM's, one for all.
pub fn pods_shared_memory(mut bundle: GuestBundle, context: &Context) -> Result<GuestBundle> {
    let mounts = bundle.spec.mounts_mut().iter_mut().flatten();
    for mount in
        mounts.filter(|mount| context.pod.is_some() && mount.destination() == Path::new(SHARED_MEMORY))
    {
        mount.set_typ(Some("bind".to_owned()));
        mount.set_source(Some(SHARED_MEMORY.into()));
        mount.set_options(Some(["rbind", "nosuid", "noexec", "nodev"].map(str::to_owned).to_vec()));
    }
    Ok(bundle)
}

/// A bind of the host's becomes a bind of what the share has of it; but virtiofs carries no
/// sockets: the guest listens in their stead.
pub fn binds(mut bundle: GuestBundle, context: &Context) -> Result<GuestBundle> {
    let (volumes, sockets) = (&mut bundle.volumes, &mut bundle.sockets);
    for mount in bundle.spec.mounts_mut().iter_mut().flatten().filter(|mount| is_bind(mount)) {
        let Some(source) = mount.source().clone() else { continue };
        let path = if (context.host.is_socket)(&source) {
            sockets.push(source);
            socket_path(context.id, sockets.len() - 1)
        } else {
            let has = |option: &str| mount.options().iter().flatten().any(|o| o == option);
            volumes.push(Volume { source, recursive: has("rbind"), read_only: has("ro") || has("rro") });
            format!("/{}", volume_path(context.id, volumes.len() - 1))
        };
        mount.set_source(Some(path.into()));
        mount.set_typ(Some("bind".to_owned()));
    }
    Ok(bundle)
}

fn is_bind(mount: &Mount) -> bool {
    let option = |o: &String| o == "bind" || o == "rbind";
    mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(option)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::{
        super::transform::{Host, to_guest},
        *,
    };

    fn guest(mounts: serde_json::Value) -> (serde_json::Value, GuestBundle) {
        let spec = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": {}, "mounts": mounts});
        let is_socket: fn(&Path) -> bool =
            |path| path.extension().is_some_and(|extension| extension == "sock");
        let bundle = to_guest(
            serde_json::from_value(spec).unwrap(),
            "c1",
            &Host { name: "node-7".to_owned(), is_socket, containers: HashMap::new() },
        )
        .unwrap();
        (serde_json::to_value(&bundle.spec).unwrap()["mounts"].clone(), bundle)
    }

    #[test]
    fn sockets_are_forwarded() {
        let (mounts, bundle) = guest(json!([
            {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["bind"]},
            {"destination": "/run/docker.sock", "source": "/run/docker.sock", "options": ["rbind", "rw"]},
        ]));
        assert_eq!(mounts[0]["source"], "/containers/c1/mounts/0");
        assert_eq!(mounts[1]["source"], "/run/krun/c1/sockets/0");
        assert_eq!(bundle.sockets, [Path::new("/run/docker.sock")]);
        assert_eq!(bundle.volumes.len(), 1);
    }

    #[test]
    fn binds_go_through_the_share() {
        let (mounts, bundle) = guest(json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "ro"]},
            {"destination": "/etc/hosts", "source": "/run/hosts", "options": ["bind"]},
        ]));
        assert_eq!(mounts[0]["source"], "proc");
        assert_eq!(mounts[1]["source"], "/containers/c1/mounts/0");
        assert_eq!(mounts[2]["source"], "/containers/c1/mounts/1");
        assert_eq!(
            bundle.volumes,
            [
                Volume { source: "/srv/data".into(), recursive: true, read_only: true },
                Volume { source: "/run/hosts".into(), recursive: false, read_only: false },
            ]
        );
    }

    #[test]
    fn a_bound_shared_memory_becomes_the_guests() {
        let (mounts, bundle) = guest(
            json!([{"destination": "/dev/shm", "type": "bind", "source": "/run/shm", "options": ["rbind"]}]),
        );
        assert_eq!(mounts[0]["type"], "tmpfs");
        assert!(bundle.volumes.is_empty());
    }
}
