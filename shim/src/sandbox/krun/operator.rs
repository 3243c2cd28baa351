//! Processes of the host's operator in a VM, outside of its containers. The guest makes each as a container that shares
//! everything but its mounts with PID 1. Its root is a directory that the administrator names, which the guest cannot write.

use std::{io, path::Path, sync::Arc, time::Duration};

use guest_protocol::{api, boot::rootfs_path};
use log::warn;
use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    KrunSandbox,
    container::{Container, follow},
    create::blocking,
    process::Process,
    vm::{CALL, Vm},
};
use crate::{
    config::{Config, RuntimeOptions},
    error::{Error, Result},
    files::{mount::ReadOnly, pin::Pinned, share::SharedRoot},
    sandbox::{
        Exit, ProcessId,
        host::{Host, Machine},
    },
    stdio::{Endpoints, StdioPaths},
};

/// Where the guest mounts what its kernel shows. It cannot make these directories.
const MOUNT_POINTS: [&str; 3] = ["dev", "proc", "sys"];

/// How long the host's file system may take over the root.
const OPENING: Duration = Duration::from_secs(5);

/// Mounted if it is there.
const SCRATCH: &str = "tmp";

/// The root of an operator's processes.
struct Root {
    directory: Pinned,
    has_scratch: bool,
}

impl Root {
    /// Opens the one that is configured now, which may be later than the VM was made. It may block.
    fn open(options: &RuntimeOptions) -> Result<Root> {
        let path = Config::load(options)?.operator_root.ok_or_else(|| {
            Error::precondition(
                "an operator's process: the shim's configuration does not allow it; `operator_root = DIRECTORY` in \
                 /etc/krun/config.toml does",
            )
        })?;
        let refused = |why: String| Error::invalid(format!("operator_root {}: {why}", path.display()));
        if !path.is_absolute() {
            return Err(refused("it must be an absolute path".to_owned()));
        }
        let directory = Pinned::open_directory(&path).map_err(|e| refused(e.to_string()))?;
        for point in MOUNT_POINTS {
            let found = directory.beneath(Path::new(point));
            found.map_err(|e| refused(format!("it needs a directory {point}: {e}")))?;
        }
        if is_hosts_root(&directory).map_err(|e| refused(e.to_string()))? {
            return Err(refused("it must not be /: the guest can read it".to_owned()));
        }
        let has_scratch = directory.beneath(Path::new(SCRATCH)).is_ok();
        Ok(Root { directory, has_scratch })
    }
}

/// Whether it is the host's /, by whatever path.
fn is_hosts_root(directory: &Pinned) -> io::Result<bool> {
    let root = Pinned::open_directory(Path::new("/"))?;
    let [one, other] = [fstat(directory)?, fstat(&root)?];
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// What an operator's process is asked for with: no other shim takes it for a process that it may run in a container.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wrapped {
    /// An OCI process object.
    pub operators_process: Value,
}

fn mount(destination: &str, kind: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": kind, "options": options})
}

/// The spec of the container `name` that the guest makes for an operator's process.
fn spec(name: &str, process: &[u8], has_scratch: bool) -> Result<Vec<u8>> {
    let Wrapped { operators_process } =
        serde_json::from_slice(process).map_err(|e| Error::invalid("an operator's process").because(e))?;
    let mut mounts = vec![
        mount("/proc", "proc", &[]),
        mount("/sys", "sysfs", &[]),
        mount("/sys/fs/cgroup", "cgroup", &[]),
        mount("/dev", "tmpfs", &["nosuid", "mode=755"]),
        mount("/dev/pts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620"]),
    ];
    if has_scratch {
        mounts.push(mount("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777"]));
    }
    let spec = json!({
        "ociVersion": "1.0.2",
        "root": {"path": format!("/{}", rootfs_path(name)), "readonly": true},
        "process": operators_process,
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": "mount"}],
            "resources": {"devices": [{"allow": true, "access": "rwm"}]},
        },
    });
    serde_json::to_vec(&spec)
        .map_err(|e| Error::internal("encode the spec of an operator's process").because(e))
}

impl<H: Host> KrunSandbox<H> {
    /// Starts an operator's process, `id`, which counts as an exec in the sandbox's own container.
    pub(super) async fn start_operators(
        &self,
        id: &ProcessId,
        process: &[u8],
        stdio: StdioPaths,
    ) -> Result<()> {
        let container = self.container(&id.container)?;
        if !container.is_sandbox {
            return Err(Error::invalid(format!(
                "an operator's process in container {}: its VM is that of sandbox {}",
                id.container, self.sandbox
            )));
        }
        let options = container.options.clone();
        let opening = blocking("open the operator's root", move || Root::open(&options));
        let root = timeout(OPENING, opening)
            .await
            .map_err(|_| Error::precondition(format!("operator_root: not opened within {OPENING:?}")))??;
        // No container has such an id: containerd refuses it.
        let in_guest = ProcessId::init(&format!("operator..{}", id.exec));
        let name = in_guest.container.clone();
        let spec = spec(&name, process, root.has_scratch)?;
        let vm = self.vm_of(&id.container).await?;
        let endpoints = Endpoints::open(&stdio, id, &self.namespace).await?;
        let (numbers, pumps) = vm.connect(id, &stdio, endpoints).await?;
        let (machine, shared) = (vm.clone(), name.clone());
        let share = blocking("share the operator's root", move || {
            let root = SharedRoot::Rootfs(root.directory, ReadOnly::All);
            machine.machine().share(&shared, &root, &[])
        });
        let share = share.await?;
        failpoint!("operator.shared");

        let exec = Process::in_guest_as(id.clone(), in_guest);
        let made = async {
            let request = api::CreateContainerRequest {
                container_id: name.clone(),
                spec,
                stdio: Some(numbers).into(),
                ..Default::default()
            };
            let what = format!("make {id}");
            vm.call(&what, async |guest, limit| guest.client.create_container(limit, &request).await).await?;
            failpoint!("operator.made");
            let reference = exec.reference();
            vm.call(&what, async |guest, limit| guest.client.start(limit, &reference).await).await
        };
        let late = |_| Err(Error::internal(format!("make {id}: not done within {CALL:?}")));
        if let Err(error) = timeout(CALL, made).await.unwrap_or_else(late) {
            vm.remove(&name).await;
            take_out(share).await;
            return Err(error);
        }
        pumps.start_input();
        exec.set_pumps(pumps);
        container.execs().insert(id.exec.clone(), exec.clone());
        tokio::spawn(attend(vm, container, exec, share));
        Ok(())
    }
}

/// Follows the process to its end, or to that of the sandbox's container, with which its VM goes.
async fn attend<H: Host>(
    vm: Arc<Vm<H>>,
    container: Arc<Container<H>>,
    exec: Arc<Process>,
    share: ShareOf<H>,
) {
    let exit = tokio::select! {
        exit = follow(&vm, &container, &exec) => {
            failpoint!("operator.ended");
            vm.remove(&exec.in_guest.container).await;
            exit
        }
        _ = container.init.ended() => Exit::KILLED,
    };
    // Whoever deletes the container finds nothing of it in the share, and nobody else who has the VM.
    take_out(share).await;
    drop((vm, container));
    // The pod itself is not out of memory.
    exec.conclude(Exit { oom_killed: false, ..exit }).await;
}

type ShareOf<H> = <<H as Host>::Machine as Machine<<H as Host>::Cgroup>>::Share;

/// Takes the operator's root out of the share, which may block.
async fn take_out<S: Send + 'static>(share: S) {
    let undone = blocking("take the operator's root out of the share", move || {
        drop(share);
        Ok(())
    });
    if let Err(error) = undone.await {
        warn!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::OptionsAuthor;

    fn open(root: Option<&Path>) -> Result<Root> {
        let body = root.map(|path| format!("operator_root = {:?}", path.display().to_string()));
        let options =
            RuntimeOptions { config_body: body, author: OptionsAuthor::Krunctl, ..RuntimeOptions::default() };
        Root::open(&options)
    }

    #[test]
    fn nobody_has_one_unless_the_administrator_says_so() {
        let error = open(None).err().unwrap().to_string();
        assert!(error.contains("does not allow it") && error.contains("operator_root"), "{error}");
    }

    #[test]
    fn the_root_is_a_directory_with_places_for_mounts_and_not_the_hosts() {
        let top = tempfile::tempdir().unwrap();
        for name in ["dev", "proc"] {
            fs::create_dir(top.path().join(name)).unwrap();
        }
        for (path, word) in [
            (top.path(), "sys"),
            (Path::new("/"), "not be /"),
            (Path::new("/usr/.."), "not be /"),
            (Path::new("srv"), "absolute"),
        ] {
            let error = open(Some(path)).err().unwrap().to_string();
            assert!(error.contains(word) && error.contains("operator_root"), "{error}");
        }
        fs::create_dir(top.path().join("sys")).unwrap();
        assert!(!open(Some(top.path())).unwrap().has_scratch);
        fs::create_dir(top.path().join("tmp")).unwrap();
        assert!(open(Some(top.path())).unwrap().has_scratch);
    }

    #[test]
    fn it_shares_all_namespaces_but_the_mounts_and_cannot_write_its_root() {
        let spec = spec("operator..e", br#"{"operatorsProcess": {"args": ["sh"]}}"#, false).unwrap();
        let spec: Value = serde_json::from_slice(&spec).unwrap();
        assert_eq!(spec["linux"]["namespaces"], json!([{"type": "mount"}]));
        assert_eq!(spec["root"], json!({"path": "/containers/operator..e/rootfs", "readonly": true}));
        assert_eq!(spec["process"]["args"], json!(["sh"]));
        // Another shim would run such a one in the container.
        assert!(super::spec("x", br#"{"args": ["sh"]}"#, false).is_err());
    }
}
