//! `delete`: cleans up after a container whose shim is gone, or has just gone.
//!
//! containerd calls it after every delete and whenever a shim died, so what is gone already is no
//! error. It ends a shim that containerd has given up. The vmm and the anchors end with their shim.
//! What remains is on the host: mounts, the sandbox's directory and cgroup, the socket, and taps in
//! a network namespace that outlives the container.

use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use containerd_shim::Flags;
use containerd_shim_protos::{api::DeleteResponse, protobuf::Message};
use oci_spec::runtime::Spec;

use super::{address, pid_file};
use crate::{
    bundle::{self, NetworkNamespace},
    cgroup,
    error::{Error, Result},
    files::{mount, state_dir},
    network::{self, Netns},
};

/// How long a shim may take to end by itself; containerd gives the whole call 5 s.
const GRACE: Duration = Duration::from_secs(1);

/// The status of a task whose shim died before it could say how the task ended.
const KILLED: u32 = 137;

/// Answers containerd's `delete`.
///
/// # Errors
/// When the answer cannot be written. What cannot be cleaned up is named on stderr, which containerd logs.
pub fn delete(flags: &Flags) -> Result<()> {
    let cwd = env::current_dir().unwrap_or_default();
    let bundle = if flags.bundle.is_empty() { cwd } else { flags.bundle.clone().into() };
    Remains::of(flags, bundle)?.clean();
    let response = DeleteResponse {
        exit_status: KILLED,
        exited_at: Some(SystemTime::now().into()).into(),
        ..Default::default()
    };
    let bytes = response.write_to_bytes().map_err(|e| Error::internal(format!("encode the answer: {e}")))?;
    io::stdout().write_all(&bytes).map_err(|e| Error::internal(format!("answer containerd: {e}")))
}

/// What a container may have left on the host.
struct Remains {
    id: String,
    /// The id of its sandbox, which may be its own.
    sandbox: String,
    bundle: PathBuf,
    /// Its config.json, when that can be read.
    spec: Option<Spec>,
    /// Where the sandbox's server may listen.
    addresses: Vec<String>,
    /// The sandbox's directory.
    state: PathBuf,
}

impl Remains {
    fn of(flags: &Flags, bundle: PathBuf) -> Result<Remains> {
        let spec = bundle::load(&bundle).ok();
        let sandbox = spec.as_ref().and_then(bundle::pod_of).unwrap_or(&flags.id).to_owned();
        let mut addresses = address::noted(&bundle, &sandbox);
        if addresses.is_empty() {
            addresses.push(address::compute(&flags.address, &flags.namespace, &sandbox, None)?);
        }
        let state = state_dir::path(&flags.namespace, &sandbox);
        Ok(Remains { id: flags.id.clone(), sandbox, bundle, spec, addresses, state })
    }

    fn clean(&self) {
        if self.sandbox == self.id
            && let Err(error) = pid_file::end(&self.bundle, &self.id, GRACE)
        {
            eprintln!("end the shim of {}: {error}", self.sandbox);
        }
        // While its server lives, the sandbox has other containers, or removes itself.
        if !self.addresses.iter().any(|address| address::is_served(address)) {
            self.remove_sandbox();
        }
        mount::detach_all(&self.bundle.join("rootfs"));
    }

    fn remove_sandbox(&self) {
        if let Some(path) = self.spec.as_ref().and_then(bundle::cgroups_path) {
            cgroup::remove(path);
        }
        state_dir::remove(&self.state);
        if let Some(NetworkNamespace::Path(path)) = self.spec.as_ref().map(bundle::network_namespace) {
            remove_taps(&path);
        }
        for address in &self.addresses {
            if let Err(error) = address::remove_socket(address) {
                eprintln!("remove {}: {error}", address::socket_path(address).display());
            }
        }
    }
}

/// The namespace may be gone already.
fn remove_taps(netns: &Path) {
    if let Ok(netns) = Netns::open(netns) {
        network::remove_leftovers(&netns);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener, sync::mpsc, thread};

    use nix::{sys::stat::Mode, unistd::mkfifo};
    use serde_json::json;

    use super::*;

    /// A host with one container's bundle on it, below a temporary directory.
    struct Host {
        root: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Host {
            let host = Host { root: tempfile::tempdir().unwrap() };
            for dir in ["tasks/pod", "tasks/app", "state/share", "sockets"] {
                fs::create_dir_all(host.path(dir)).unwrap();
            }
            host
        }

        fn path(&self, below: &str) -> PathBuf {
            self.root.path().join(below)
        }

        /// Writes the config.json of `app`, a container of `pod`, and says where its sandbox's server listens.
        fn member(&self, network: serde_json::Value) -> Flags {
            let spec = json!({
                "ociVersion": "1.0.2", "root": {"path": "rootfs"},
                "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}},
                "annotations": {"io.kubernetes.cri.sandbox-id": "pod"},
                "linux": {"namespaces": [network]},
            });
            fs::write(self.path("tasks/app/config.json"), spec.to_string()).unwrap();
            Flags {
                id: "app".to_owned(),
                namespace: "default".to_owned(),
                // No containerd has this address, so the usual place of the socket is nobody's.
                address: self.path("containerd.sock").display().to_string(),
                ..Flags::default()
            }
        }

        fn clean(&self, flags: &Flags) {
            let mut remains = Remains::of(flags, self.path("tasks/app")).unwrap();
            remains.state = self.path("state");
            remains.clean();
        }
    }

    #[test]
    fn a_live_server_keeps_its_sandbox_wherever_it_listens() {
        for noted_in in ["tasks/app", "tasks/pod"] {
            let host = Host::new();
            let flags = host.member(json!({"type": "network"}));
            let socket = host.path("sockets/s");
            let server = UnixListener::bind(&socket).unwrap();
            address::write(&host.path(noted_in), &format!("unix://{}", socket.display())).unwrap();
            host.clean(&flags);
            assert!(host.path("state/share").is_dir() && socket.exists(), "noted in {noted_in}");

            drop(server);
            host.clean(&flags);
            assert!(!host.path("state").exists() && !socket.exists(), "noted in {noted_in}");
        }
    }

    #[test]
    fn a_sandbox_without_a_noted_address_is_looked_for_in_the_usual_place() {
        let host = Host::new();
        let flags = host.member(json!({"type": "network"}));
        let usual = address::compute(&flags.address, "default", "pod", None).unwrap();
        assert_eq!(Remains::of(&flags, host.path("tasks/app")).unwrap().addresses, [usual]);
        host.clean(&flags);
        assert!(!host.path("state").exists());
    }

    #[test]
    fn a_bundle_without_a_config_is_its_own_sandbox() {
        let host = Host::new();
        let flags = host.member(json!({"type": "network"}));
        fs::write(host.path("tasks/app/config.json"), "{").unwrap();
        assert_eq!(Remains::of(&flags, host.path("tasks/app")).unwrap().sandbox, "app");
        host.clean(&flags);
        assert!(!host.path("state").exists());
    }

    #[test]
    fn a_fifo_for_a_network_namespace_holds_up_nothing() {
        let host = Host::new();
        let fifo = host.path("netns");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let flags = host.member(json!({"type": "network", "path": fifo}));
        let (done, cleaned) = mpsc::channel();
        thread::spawn(move || {
            host.clean(&flags);
            done.send(host.path("state").exists())
        });
        assert!(!cleaned.recv_timeout(Duration::from_secs(10)).expect("delete hangs"));
    }
}
