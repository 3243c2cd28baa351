//! What the examples have in common: a VM with one container, from its making to its end. It is no part of the library, and
//! yours to copy.
//!
//! A VM's root is a directory of the host, the *share*. A container's root file system and volumes are mounted in it, where
//! [`boot::rootfs_path`] and [`boot::volume_path`] say; the guest sees them below `/` of the VM, and makes the container of them
//! that an OCI spec describes.

// No example needs all of it.
#![allow(dead_code)]

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    time::{Duration, SystemTime},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use serde_json::{Value, json};
use vm_launcher::{
    Guest, Vm, VmConfig, find,
    guest_protocol::{
        api, boot,
        failure::{self, CallError},
        mux::Reader,
        ttrpc::context::{self, Context},
    },
};

/// The library's errors are types of their own. The examples mostly show them, so one for all is enough here.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The id of the container.
pub const ID: &str = "example";

/// Memory of the VM in MiB.
const MEMORY_MIB: u32 = 256;

/// How long the guest may take to boot. Half a second is usual; an emulated host may need a minute.
const BOOT: Duration = Duration::from_secs(90);

/// How long the guest may take to answer. It is not trusted, so every call needs a limit.
const CALL: Duration = Duration::from_secs(60);

/// The context of a call that is answered at once.
pub fn soon() -> Context {
    context::with_duration(CALL)
}

/// Runs an example with the program's arguments. Its exit status is the program's; an error's is a shell's for a command that
/// could not be run, else 125, as `docker run` has it.
pub fn main(example: impl AsyncFnOnce(&[&str]) -> Result<u8>) -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let run = || {
        // Before there is another thread: a mount namespace is a thread's, and later ones inherit it.
        own_mounts()?;
        // The vmm is killed when the thread that launched it ends. Of this runtime, that is the main thread.
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(example(&args))
    };
    let error = match run() {
        Ok(status) => return status.into(),
        Err(error) => error,
    };
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
    command_status(&*error).unwrap_or(125).into()
}

/// A shell's status for a command that could not be run, if that is what `error` is about.
pub fn command_status(error: &(dyn Error + Send + Sync + 'static)) -> Option<u8> {
    failure::command_status(error.downcast_ref::<CallError>()?.reason())
}

/// Gives this process a mount namespace of its own. What is mounted there is not on the host, and goes with the process.
fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| format!("a mount namespace, which needs root: {errno}"))?;
    let slaves = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    Ok(mount(None::<&str>, "/", None::<&str>, slaves, None::<&str>)?)
}

/// The host's side of a VM: its share, and the directory of its socket. Removed when it is dropped; a signal that ends the process
/// leaves an empty directory.
pub struct Share {
    top: PathBuf,
}

impl Share {
    /// Makes a share that shows `root` as the container's root file system.
    pub fn new(root: impl AsRef<Path>) -> Result<Share> {
        // In /run, as a socket's path may have 107 bytes, and a temporary directory's path can be long.
        let share = Share { top: PathBuf::from(format!("/run/vm-launcher-example-{}", process::id())) };
        fs::create_dir(&share.top)?;
        mount(Some("vm"), &share.top, Some("tmpfs"), MsFlags::empty(), Some("mode=0700,size=1m"))?;
        fs::create_dir(share.sockets())?;
        fs::create_dir(share.path())?;
        // A shared mount, so that the guest sees what is mounted in it after its launch as well.
        bind(&share.path(), &share.path())?;
        mount(None::<&str>, &share.path(), None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
        for name in boot::MOUNT_POINTS {
            fs::create_dir(share.path().join(name))?;
        }
        share.show(root, &boot::rootfs_path(ID), false)?;
        Ok(share)
    }

    /// Shows the guest `directory` of the host at `path` in the share, before the VM is launched. What is read-only here, the guest
    /// cannot write to by any means; an option of its mounts would be a promise of the guest's. Device nodes and setuid programs are
    /// none to the host.
    pub fn show(&self, directory: impl AsRef<Path>, path: &str, read_only: bool) -> Result<()> {
        let target = self.path().join(path);
        fs::create_dir_all(&target)?;
        bind(directory.as_ref(), &target)?;
        let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        flags.set(MsFlags::MS_RDONLY, read_only);
        Ok(mount(None::<&str>, &target, None::<&str>, flags, None::<&str>)?)
    }

    fn path(&self) -> PathBuf {
        self.top.join("share")
    }

    fn sockets(&self) -> PathBuf {
        self.top.join("sock")
    }
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    let bound = mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    Ok(bound.map_err(|errno| format!("cannot show {} to the guest: {errno}", source.display()))?)
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = umount2(&self.top, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.top);
    }
}

/// A VM whose guest is up.
pub struct Machine {
    // Dropped in this order: the VM ends before its share does.
    vm: Vm,
    /// PID 1 of the VM.
    pub guest: Guest,
    _share: Share,
}

impl Machine {
    /// Boots a VM. Without a network: see `ports.rs` for how a server in it is reached nevertheless.
    pub async fn boot(share: Share) -> Result<Machine> {
        let (libkrunfw, guest_init) = (find::libkrunfw(None)?, find::guest_init(None)?);
        let config = VmConfig {
            memory_mib: MEMORY_MIB,
            ..VmConfig::new(share.path(), share.sockets(), libkrunfw, guest_init)
        };
        let vm = Vm::launch(config).await?;
        let guest = vm.guest(BOOT).await?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let request = api::ConfigureRequest {
            realtime_ns: i64::try_from(now.as_nanos())?,
            hostname: ID.to_owned(),
            ..Default::default()
        };
        guest.client.configure(soon(), &request).await.map_err(CallError::from)?;
        Ok(Machine { vm, guest, _share: share })
    }

    /// Makes the container with the command `args`, and starts it. `stdio` has the numbers of the streams that the command is to
    /// have, which are open here; `mounts` those of the OCI spec that every container does not have.
    pub async fn start(&self, args: &[&str], mounts: &[Value], stdio: api::Stdio) -> Result<()> {
        let request = api::CreateContainerRequest {
            container_id: ID.to_owned(),
            spec: serde_json::to_vec(&spec(args, mounts))?,
            stdio: Some(stdio).into(),
            ..Default::default()
        };
        self.guest.client.create_container(soon(), &request).await.map_err(CallError::from)?;
        self.guest.client.start(soon(), &process("")).await.map_err(CallError::from)?;
        Ok(())
    }

    /// Waits for the end of a process, for as long as that takes or the VM lives, and answers its exit status.
    pub async fn wait(&self, process: &api::ProcessRef) -> Result<u8> {
        let record = self.guest.client.wait(Context::default(), process).await.map_err(CallError::from)?;
        // The guest says so, and may say anything.
        Ok((record.status & 0xff) as u8)
    }

    /// Ends the VM, and waits until nothing is left of it.
    pub async fn end(self) {
        self.vm.kill();
        self.vm.ended().await;
    }
}

/// Names a process for the guest: an exec, or with "" the container's own.
pub fn process(exec: &str) -> api::ProcessRef {
    api::ProcessRef { container_id: ID.to_owned(), exec_id: exec.to_owned(), ..Default::default() }
}

/// An OCI process object without any capability. Source: OCI runtime-spec, config.md.
pub fn command(args: &[&str]) -> Value {
    json!({ "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin:/usr/bin"], "cwd": "/", "noNewPrivileges": true })
}

/// A small OCI spec. Its paths are the guest's; the network is the VM's.
fn spec(args: &[&str], mounts: &[Value]) -> Value {
    let mut all = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] }),
        json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"] }),
    ];
    all.extend_from_slice(mounts);
    json!({
        "ociVersion": "1.1.0",
        "root": { "path": format!("/{}", boot::rootfs_path(ID)) },
        "process": command(args),
        "mounts": all,
        "linux": { "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}] },
    })
}

/// The most bytes of a stream that [`text`] takes: the guest could send without end.
const MAX_TEXT: usize = 1 << 20;

/// All of a stream that is short, as text.
pub async fn text(mut stream: Reader) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_TEXT
        && let Some(chunk) = stream.recv().await
    {
        bytes.extend(chunk);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
