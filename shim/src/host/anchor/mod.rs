//! The anchor: a container's pid on the host.
//!
//! A process per container that does nothing but exist: in the task's network namespace and host
//! cgroup, its root the container's rootfs. So what goes by pid on the host works: CNI on
//! /proc/<pid>/ns/net, a copy through /proc/<pid>/root, nsenter, stats. It is this executable
//! under another name until it stands, and then a few instructions ([`bare`]); it ends when the shim does, or when it is told to, and when somebody ends
//! it, its container is killed.

mod bare;

use std::{
    env, fs, io,
    io::{Read, Write},
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use linux::spawn::{Child, Spawn};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns},
    sys::{prctl, signal::Signal},
    unistd::{fchdir, pivot_root},
};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncReadExt, task::spawn_blocking, time::timeout};

use crate::{
    bundle::NetworkNamespace,
    cgroup::HostCgroup,
    error::{Error, Result},
    failpoint::seconds,
    files::{mount::tree, pin::Pinned},
    network::Netns,
};

/// The argument with which this executable is an anchor, and the name of its process.
pub const NAME: &str = "krun-anchor";

/// Its end of a socket to the shim: the orders come in, one byte or an error's text goes out.
const ORDERS_FD: i32 = 3;

/// Its rootfs: a copy of the mounts that is attached nowhere yet.
const ROOTFS_FD: i32 = 4;

/// A network namespace to enter, if the orders say so.
const NETNS_FD: i32 = 5;

/// What the anchor answers when it stands.
const READY: &[u8] = b"+";

/// How long it may take to stand: it does a handful of system calls, unless somebody stops it.
const STANDS: Duration = seconds(30, 8);

#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    /// There is a network namespace to enter.
    enter: bool,
    /// The namespace is new: its loopback is to be brought up.
    loopback: bool,
}

/// A container's anchor; it ends when this is dropped.
pub struct Anchor {
    child: Child,
    /// The anchor ends when it reads the end of file from its peer.
    _tie: UnixStream,
}

impl Anchor {
    /// Starts the anchor of `container` in its cgroup.
    ///
    /// # Errors
    /// What could not be done, naming the path; no process stays behind.
    pub async fn start(
        container: &str,
        rootfs: &Pinned,
        network: &NetworkNamespace,
        cgroup: Option<Arc<HostCgroup>>,
    ) -> Result<Anchor> {
        let failed =
            |what: &str, e: io::Error| Error::internal(format!("anchor of {container}: {what}")).because(e);
        let (ours, theirs) = UnixStream::pair().map_err(|e| failed("make a socket", e))?;
        let mut namespaces = CloneFlags::CLONE_NEWNS;
        if *network == NetworkNamespace::New {
            namespaces |= CloneFlags::CLONE_NEWNET;
        }
        let tree = tree::clone(rootfs, true)
            .and_then(|tree| tree::isolate(&tree).map(|()| tree))
            .map_err(|e| failed(&format!("copy the mounts of {}", rootfs.path().display()), e))?;
        let netns = match network.clone() {
            NetworkNamespace::New | NetworkNamespace::Host => None,
            NetworkNamespace::Path(path) => {
                let opened = spawn_blocking(move || Netns::open(&path)).await;
                Some(opened.map_err(|e| failed("open its network namespace", io::Error::other(e)))??)
            }
        };
        let mut spawn = spawn(container, theirs, tree);
        if let Some(netns) = &netns {
            let netns = netns.to_fd().map_err(|e| failed("copy a descriptor", e))?;
            spawn = spawn.fd(netns, NETNS_FD);
        }
        spawn.namespaces = namespaces;
        spawn.death_signal = Some(Signal::SIGKILL);
        spawn.cgroup = cgroup.as_deref().map(HostCgroup::open).transpose()?.flatten();
        let is_placed = spawn.cgroup.is_some();
        let child = spawn.spawn().map_err(|e| Error::internal("start the anchor").because(e))?;
        let anchor = Anchor { child, _tie: ours };
        if let Some(cgroup) = cgroup.filter(|_| !is_placed) {
            let pid = anchor.child.pid();
            // It asks systemd.
            let added = spawn_blocking(move || cgroup.add(pid)).await;
            added.map_err(|e| failed("join the cgroup", io::Error::other(e)))??;
        }
        let orders = Orders { enter: netns.is_some(), loopback: *network == NetworkNamespace::New };
        let answer = timeout(STANDS, anchor.order(&orders)).await;
        let answer = answer.map_err(|_| {
            Error::internal(format!("anchor of {container}: it does not stand after {STANDS:?}"))
        })?;
        let answer = answer.map_err(|e| failed("give orders", e))?;
        match answer.as_slice() {
            READY => Ok(anchor),
            b"" => Err(Error::internal(format!("anchor of {container}: it ended at once"))),
            text => Err(Error::internal(format!("anchor of {container}: {}", String::from_utf8_lossy(text)))),
        }
    }

    async fn order(&self, orders: &Orders) -> io::Result<Vec<u8>> {
        let text = serde_json::to_vec(orders).map_err(io::Error::other)?;
        (&self._tie).write_all(&(text.len() as u32).to_le_bytes())?;
        (&self._tie).write_all(&text)?;
        let socket = self._tie.try_clone()?;
        socket.set_nonblocking(true)?;
        let mut socket = tokio::net::UnixStream::from_std(socket)?;
        let mut answer = vec![0; 1024];
        let length = socket.read(&mut answer).await?;
        answer.truncate(length);
        Ok(answer)
    }

    /// Its pid on the host.
    pub fn pid(&self) -> u32 {
        self.child.pid().as_raw() as u32
    }

    /// Ends it. Idempotent.
    pub fn kill(&self) {
        self.child.kill(Signal::SIGKILL);
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        let _ = self.child.ended().await;
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        // A stopped anchor does not read that the shim lets go of it. An anchor that has ended is left alone.
        self.kill();
    }
}

/// A process that is to be an anchor.
#[expect(clippy::disallowed_methods, reason = "this executable")]
fn spawn(container: &str, shim: UnixStream, rootfs: OwnedFd) -> Spawn {
    Spawn::new("/proc/self/exe").arg(NAME).arg(container).fd(shim, ORDERS_FD).fd(rootfs, ROOTFS_FD)
}

/// The anchor process.
pub fn main() -> ExitCode {
    // SAFETY: the shim passes these descriptors to its anchor and nothing else here uses them.
    let (shim, rootfs) = unsafe { (OwnedFd::from_raw_fd(ORDERS_FD), OwnedFd::from_raw_fd(ROOTFS_FD)) };
    let mut shim = UnixStream::from(shim);
    if let Err(error) = stand(&mut shim, rootfs) {
        // In one piece, as the shim reads it.
        let _ = shim.write_all(format!("{error:#}").as_bytes());
        return ExitCode::FAILURE;
    }
    if shim.write_all(READY).is_err() {
        return ExitCode::FAILURE;
    }
    let container = env::args().nth(2).unwrap_or_default();
    let Err(_) = bare::become_bare(&container);
    // Nothing more is ever sent: this returns when the shim has gone or let go.
    let _ = shim.read(&mut [0]);
    ExitCode::SUCCESS
}

#[expect(clippy::disallowed_methods, reason = "a constant path of /proc")]
fn stand(shim: &mut impl Read, rootfs: OwnedFd) -> anyhow::Result<()> {
    use anyhow::Context as _;
    prctl::set_name(c"krun-anchor").context("take a name")?;
    // The shim is protected when memory is short, and its children inherit that.
    fs::write("/proc/self/oom_score_adj", "0").context("give up the shim's protection")?;
    failpoint!(blocking "anchor.called");
    let mut length = [0; 4];
    shim.read_exact(&mut length).context("read orders")?;
    let mut text = vec![0; u32::from_le_bytes(length) as usize];
    shim.read_exact(&mut text).context("read orders")?;
    let orders: Orders = serde_json::from_slice(&text).context("understand orders")?;
    if orders.enter {
        // SAFETY: the shim passes this descriptor with such an order, and nothing else here uses it.
        let netns = Netns::from_fd(unsafe { OwnedFd::from_raw_fd(NETNS_FD) });
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
    }
    if orders.loopback {
        linux::loopback::bring_up().context("bring up lo in the new network namespace")?;
    }
    failpoint!(blocking "anchor.joined");
    enter_root(rootfs)
}

/// Makes `rootfs` the root. The mounts that this namespace copied from the host's go with the old
/// root, so that the anchor pins none of them.
#[expect(clippy::disallowed_methods, reason = "the root and the current directory of a namespace of its own")]
fn enter_root(rootfs: OwnedFd) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make / private")?;
    let host = fs::File::open("/").context("open /")?;
    tree::attach(&rootfs, host).context("mount the rootfs")?;
    fchdir(rootfs).context("enter the rootfs")?;
    pivot_root(".", ".").context("make the rootfs the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("detach the host's root")?;
    env::set_current_dir("/").context("enter /")
}
