//! The mounts of a spec: those of the host go through the share, the others are the guest's own.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{FileVolume, GuestBundle, Owners, Volume, transform::Context, users};
use crate::{
    error::{Error, Result},
    files::{mount::ReadOnly, pin::Source},
};

/// The shared memory's path, in the VM and in each container.
const SHARED_MEMORY: &str = "/dev/shm";

/// Makes the shared memory that the host has for a container the guest's own, with the same size. A volume that the user has put
/// there stays one.
pub fn shared_memory(mut bundle: GuestBundle, context: &Context) -> Result<GuestBundle> {
    for mount in bundle.spec.mounts_mut().iter_mut().flatten() {
        let source = mount.source().clone().unwrap_or_default();
        if mount.destination() != Path::new(SHARED_MEMORY) || !is_bind(mount) {
            continue;
        }
        let is_all = source == Path::new(SHARED_MEMORY);
        let size = || (context.host.resolve)(&source).ok().and_then(|source| source.size());
        // The host's own may be larger than the VM.
        let Some(size) = (if is_all {
            Some(None)
        } else if is_made_for(&source, context) {
            size().map(Some)
        } else {
            None
        }) else {
            continue;
        };
        users::forget_owners(mount);
        mount.set_typ(Some("tmpfs".to_owned()));
        mount.set_source(Some("shm".into()));
        let options = ["nosuid", "noexec", "nodev", "mode=1777"].map(str::to_owned);
        let size = size.map(|bytes| format!("size={bytes}"));
        mount.set_options(Some(options.into_iter().chain(size).collect()));
    }
    Ok(bundle)
}

/// Whether a directory can be the shared memory that the host has made for the container or its pod: then its path has their id, and
/// it is a tmpfs. Source: containerd's CRI (`sandboxes/ID/shm`), Docker (`containers/ID/mounts/shm`), CRI-O (`ID/userdata/shm`).
fn is_made_for(source: &Path, context: &Context) -> bool {
    let ids = [Some(context.id), context.pod];
    source.ends_with("shm") && source.iter().any(|part| ids.iter().flatten().any(|id| part == *id))
}

/// In a pod, binds the VM's /dev/shm: its containers share one.
pub fn pods_shared_memory(mut bundle: GuestBundle, context: &Context) -> Result<GuestBundle> {
    let is_own = |mount: &&mut Mount| mount.destination() == Path::new(SHARED_MEMORY) && !is_bind(mount);
    let mounts = bundle.spec.mounts_mut().iter_mut().flatten();
    for mount in mounts.filter(|_| context.pod.is_some()).filter(is_own) {
        mount.set_typ(Some("bind".to_owned()));
        mount.set_source(Some(SHARED_MEMORY.into()));
        mount.set_options(Some(["rbind", "nosuid", "noexec", "nodev"].map(str::to_owned).to_vec()));
    }
    Ok(bundle)
}

/// Binds what the share has of a host's directory or file. virtiofs carries no sockets, so the guest listens on one of
/// its own in the place of a bound socket.
pub fn binds(mut bundle: GuestBundle, context: &Context) -> Result<GuestBundle> {
    let own = users::user_namespace(&bundle.spec)?;
    let mut all = Vec::new();
    for mut mount in bundle.spec.mounts().clone().unwrap_or_default() {
        let source = mount.source().clone().filter(|_| is_bind(&mount));
        let owners = users::owners(&mount, own.as_ref())?;
        users::forget_owners(&mut mount);
        let Some(source) = source else {
            if owners.is_some() {
                let place = mount.destination().display();
                return Err(Error::invalid(format!(
                    "mount {place}: only a bind's files can have other owners"
                )));
            }
            all.push(mount);
            continue;
        };
        mount.set_typ(Some("bind".to_owned()));
        let source = (context.host.resolve)(&source)?;
        let below = match &source {
            Source::Directory { mounts, .. } => mounts.clone(),
            Source::File(_) | Source::Socket(_) => Vec::new(),
        };
        let volume = Volume::new(&mount, source, owners);
        if let Volume::Files(FileVolume {
            follows: true, owners: Some(Owners { recursive: true, .. }), ..
        }) = &volume
        {
            let place = mount.destination().display();
            return Err(Error::invalid(format!(
                "mount {place}: ridmap with slave or shared propagation: what the host mounts later would keep its owners; use idmap, or private"
            )));
        }
        let path = PathBuf::from(volume.path_in_guest(context.id, bundle.volumes.len()));
        mount.set_source(Some(path.clone()));
        let is_partly_read_only =
            matches!(&volume, Volume::Files(FileVolume { recursive: true, read_only: ReadOnly::Top, .. }));
        let below = below.iter().filter(|_| is_partly_read_only);
        let writable: Vec<_> = below.map(|below| writable_below(&mount, &path, below)).collect();
        all.push(mount);
        all.extend(writable);
        bundle.volumes.push(volume);
    }
    if !all.is_empty() {
        bundle.spec.set_mounts(Some(all));
    }
    Ok(bundle)
}

/// A bind of the mount at `path` below the volume of `top`, to come after `top`. "ro" makes the top alone read-only,
/// but the guest's kernel mounts what is below it by itself, with the options of the top.
fn writable_below(top: &Mount, shared: &Path, path: &Path) -> Mount {
    let mut mount = top.clone();
    mount.set_destination(top.destination().join(path));
    mount.set_source(Some(shared.join(path)));
    let options = top.options().iter().flatten().filter(|o| *o != "ro").map(|o| match o.as_str() {
        // Each mount below it has a bind of its own.
        "rbind" => "bind".to_owned(),
        _ => o.clone(),
    });
    mount.set_options(Some(options.collect()));
    mount
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
    use crate::files::pin::fake;

    fn guest(mounts: serde_json::Value) -> (serde_json::Value, GuestBundle) {
        let spec = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": {}, "mounts": mounts});
        let resolve: fn(&Path) -> Result<Source> = |path| match path.to_str() {
            Some("/run/docker.sock") => Ok(Source::Socket(fake::socket("/run/docker.sock"))),
            // Not /dev/shm, which not every machine has: this is in memory as well.
            Some(shm) if shm.contains("/c1/") && shm != "/srv/c1/shm" => {
                Ok(Source::Directory { file: fake::in_memory(shm), mounts: Vec::new() })
            }
            Some("/srv/data") => {
                Ok(Source::Directory { file: fake::file("/srv/data"), mounts: vec!["disk".into()] })
            }
            Some(path) => Ok(Source::File(fake::file(path))),
            None => unreachable!(),
        };
        let bundle = to_guest(
            serde_json::from_value(spec).unwrap(),
            "c1",
            &Host {
                name: "node-7".to_owned(),
                resolve,
                containers: HashMap::new(),
                rlimits: Vec::new(),
                oom_score_adj: None,
                kvm: false,
            },
        )
        .unwrap();
        (serde_json::to_value(&bundle.spec).unwrap()["mounts"].clone(), bundle)
    }

    /// Source, whether recursive, and what is read-only of each volume.
    fn volumes(bundle: &GuestBundle) -> Vec<(&str, bool, ReadOnly)> {
        let files = bundle.volumes.iter().filter_map(|volume| match volume {
            Volume::Files(files) => Some(files),
            Volume::Socket(_) => None,
        });
        files.map(|v| (v.source.path().to_str().unwrap(), v.recursive, v.read_only)).collect()
    }

    #[test]
    fn sockets_are_forwarded() {
        let (mounts, bundle) = guest(json!([
            {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["bind"]},
            {"destination": "/run/docker.sock", "source": "/run/docker.sock", "options": ["rbind", "rw"]},
        ]));
        assert_eq!(mounts[0]["source"], "/containers/c1/mounts/0");
        assert_eq!(mounts[1]["source"], "/run/krun/c1/sockets/1");
        let [Volume::Files(_), Volume::Socket(socket)] = bundle.volumes.as_slice() else {
            panic!("{:?}", bundle.volumes);
        };
        assert_eq!(socket.path(), Path::new("/run/docker.sock"));
    }

    #[test]
    fn binds_go_through_the_share() {
        let (mounts, bundle) = guest(json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "rro"]},
            {"destination": "/etc/hosts", "source": "/run/hosts", "options": ["bind"]},
        ]));
        assert_eq!(mounts[0]["source"], "proc");
        assert_eq!(mounts[1]["source"], "/containers/c1/mounts/0");
        assert_eq!(mounts[2]["source"], "/containers/c1/mounts/1");
        assert_eq!(
            volumes(&bundle),
            [("/srv/data", true, ReadOnly::All), ("/run/hosts", false, ReadOnly::Nothing)]
        );
    }

    #[test]
    fn a_read_only_binds_mounts_below_it_stay_writable() {
        let (mounts, bundle) = guest(json!([
            {"destination": "/mnt", "source": "/srv/data", "options": ["rbind", "rprivate", "ro"]},
            {"destination": "/last", "type": "tmpfs"},
        ]));
        assert_eq!(mounts[0]["options"], json!(["rbind", "rprivate", "ro"]));
        assert_eq!(
            mounts[1],
            json!({"destination": "/mnt/disk", "type": "bind", "source": "/containers/c1/mounts/0/disk",
                "options": ["bind", "rprivate"]})
        );
        assert_eq!(mounts[2]["destination"], "/last");
        assert_eq!(volumes(&bundle), [("/srv/data", true, ReadOnly::Top)]);
    }

    #[test]
    fn a_volume_follows_the_host_when_asked_to() {
        for (propagation, follows) in [("rprivate", false), ("rslave", true), ("rshared", true)] {
            let mount =
                json!([{"destination": "/mnt", "source": "/srv/data", "options": ["rbind", propagation]}]);
            let Volume::Files(volume) = &guest(mount).1.volumes[0] else { panic!("no files") };
            assert_eq!(volume.follows, follows, "{propagation}");
        }
    }

    #[test]
    fn the_hosts_shared_memory_becomes_the_guests_and_a_volume_stays() {
        let mounted = |source: &str| {
            guest(
                json!([{"destination": "/dev/shm", "type": "bind", "source": source, "options": ["rbind"]}]),
            )
        };
        for hosts in
            ["/dev/shm", "/run/containerd/sandboxes/c1/shm", "/var/lib/docker/containers/c1/mounts/shm"]
        {
            let (mounts, bundle) = mounted(hosts);
            assert_eq!(mounts[0]["type"], "tmpfs", "{hosts}");
            assert!(bundle.volumes.is_empty(), "{hosts}");
        }
        for volume in [
            "/srv/data",
            "/var/lib/kubelet/pods/7/volumes/kubernetes.io~empty-dir/shm",
            "/srv/c1/data",
            "/srv/c1/shm",
        ] {
            let (mounts, bundle) = mounted(volume);
            assert_eq!(mounts[0]["source"], "/containers/c1/mounts/0", "{volume}");
            assert_eq!(bundle.volumes.len(), 1, "{volume}");
        }
    }
}
