//! Processes of the host's operator in a VM, outside of its containers. The guest makes each as a container that shares
//! everything but its mounts with PID 1. Its root is a directory that the administrator names, which the guest cannot write.

use std::{path::Path, sync::Arc};

use guest_protocol::{api, boot::rootfs_path};
use log::warn;
use serde_json::{Value, json};

use super::{
    KrunSandbox,
    container::{Container, container_ref, follow},
    create::blocking,
    process::Process,
    vm::Vm,
};
use crate::{
    config::{Config, RuntimeOptions},
    error::{Error, Result},
    files::{mount::ReadOnly, pin::Pinned},
    sandbox::{
        ProcessId,
        host::{Host, Machine},
    },
    stdio::{Endpoints, Pumps, StdioPaths, streams},
};

/// Where the guest mounts what its kernel shows. It cannot make these directories.
const MOUNT_POINTS: [&str; 3] = ["dev", "proc", "sys"];

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
                "an operator's process: the shim's configuration does not allow it; `operator_root = DIRECTORY` does",
            )
        })?;
        let refused = |why: String| Error::invalid(format!("operator_root {}: {why}", path.display()));
        if !path.is_absolute() || path == Path::new("/") {
            return Err(refused("it must be an absolute path, and not /, as the guest reads it".to_owned()));
        }
        let directory = Pinned::open_directory(&path).map_err(|e| refused(e.to_string()))?;
        for point in MOUNT_POINTS {
            let found = directory.beneath(Path::new(point));
            found.map_err(|e| refused(format!("it needs a directory {point}: {e}")))?;
        }
        let has_scratch = directory.beneath(Path::new(SCRATCH)).is_ok();
        Ok(Root { directory, has_scratch })
    }
}

/// The spec of the container `name` that the guest makes for an operator's process.
fn spec(name: &str, process: &[u8], has_scratch: bool) -> Result<Vec<u8>> {
    let process: Value =
        serde_json::from_slice(process).map_err(|e| Error::invalid("an operator's process").because(e))?;
    let mount = |destination: &str, kind: &str, options: &[&str]| {
        json!({"destination": destination, "type": kind, "source": kind, "options": options})
    };
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
        "process": process,
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": "mount"}],
            "resources": {"devices": [{"allow": true, "access": "rwm"}]},
        },
    });
    serde_json::to_vec(&spec).map_err(|e| Error::internal("encode the spec of an operator's process").because(e))
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
        let root = blocking("open the operator's root", move || Root::open(&options)).await?;
        let process_in_guest = ProcessId::init(&format!("operator.{}", id.exec));
        let name = process_in_guest.container.clone();
        let spec = spec(&name, process, root.has_scratch)?;
        let vm = self.vm_of(&id.container).await?;
        let guest = vm.guest().await?;
        let endpoints = Endpoints::open(&stdio, id, &self.namespace).await?;
        let numbers = streams(&stdio, || vm.numbers().next());
        let pumps = Pumps::connect(endpoints, &numbers, &guest.streams)
            .map_err(|e| Error::internal(format!("open the streams of {id}")).because(e))?;
        let (machine, shared) = (vm.clone(), name.clone());
        let share = blocking("share the operator's root", move || {
            machine.machine().share(&shared, (&root.directory, ReadOnly::All), &[])
        });
        let share = share.await?;

        let exec = Process::in_guest_as(id.clone(), process_in_guest);
        let made = async {
            let request = api::CreateContainerRequest {
                container_id: name.clone(),
                spec,
                stdio: Some(numbers).into(),
                ..Default::default()
            };
            let what = format!("make {id}");
            vm.call(&what, async |guest, limit| guest.client.create_container(limit, &request).await).await?;
            let reference = exec.reference();
            vm.call(&what, async |guest, limit| guest.client.start(limit, &reference).await).await
        };
        if let Err(error) = made.await {
            remove(&vm, &name, share).await;
            return Err(error);
        }
        pumps.start_input();
        exec.set_pumps(pumps);
        container.execs().insert(id.exec.clone(), exec.clone());
        tokio::spawn(attend(vm, container, exec, share));
        Ok(())
    }
}

/// Follows the process to its end, and removes it.
async fn attend<H: Host>(vm: Arc<Vm<H>>, container: Arc<Container<H>>, exec: Arc<Process>, share: ShareOf<H>) {
    let exit = follow(&vm, &container, &exec).await;
    remove(&vm, &exec.reference().container_id, share).await;
    drop(vm);
    exec.conclude(exit).await;
}

type ShareOf<H> = <<H as Host>::Machine as Machine<<H as Host>::Cgroup>>::Share;

/// Removes what was made for it from the guest and from the share.
async fn remove<H: Host>(vm: &Vm<H>, name: &str, share: ShareOf<H>) {
    let reference = container_ref(name);
    let what = format!("remove {name}");
    let removed =
        vm.call(&what, async |guest, limit| guest.client.delete_container(limit, &reference).await).await;
    if let Err(error) = removed {
        warn!("remove {name} from the guest: {error}");
    }
    let undone = blocking("take the operator's root from the share", move || {
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
        for (path, word) in [(top.path(), "sys"), (Path::new("/"), "not /"), (Path::new("srv"), "absolute")] {
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
        let spec = spec("operator.e", br#"{"args": ["sh"]}"#, false).unwrap();
        let spec: Value = serde_json::from_slice(&spec).unwrap();
        assert_eq!(spec["linux"]["namespaces"], json!([{"type": "mount"}]));
        assert_eq!(spec["root"], json!({"path": "/containers/operator.e/rootfs", "readonly": true}));
        assert_eq!(spec["process"]["args"], json!(["sh"]));
        assert!(super::spec("x", b"no", false).is_err());
    }
}
