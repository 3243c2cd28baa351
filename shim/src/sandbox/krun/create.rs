//! Making a container: the bundle is read and translated, then each of its parts is made on the host, and whatever fails
//! undoes the parts before it.

use std::{path::PathBuf, sync::Arc};

use linux::user_namespace::IdMaps;
use log::info;
use tokio::task::spawn_blocking;

use super::{
    KrunSandbox,
    container::{Blueprint, Container},
    host_side::HostSide,
    vm::Vm,
};
use crate::{
    bundle::{self, GuestBundle, HostPolicy, NetworkNamespace, Role, Root, Volume, executable, view},
    config::Config,
    error::{Error, Result},
    files::{disk::VmDisk, follow::Follower, status::PodName, watch::Watched},
    hooks::ContainerHooks,
    network::{self, Bound, Choice},
    sandbox::{
        NewContainer, ProcessId,
        host::{Anchor, Cgroup, GuestRoot, Host, Machine, Names, RootRequest, Share, Snapshot},
    },
    stdio::Endpoints,
};

/// A container as its bundle describes it.
struct Plan {
    config: Config,
    pod: Option<PodName>,
    network: NetworkNamespace,
    users: Option<IdMaps>,
    cgroup: Option<PathBuf>,
    root: Root,
    hooks: ContainerHooks,
    policy: HostPolicy,
    guest: GuestBundle,
}

impl Plan {
    /// Reads the bundle. The sources of volumes are resolved here, which may hang with a file system of the host.
    fn read(new: &NewContainer, host: bundle::Host) -> Result<Plan> {
        let id = new.id.as_str();
        let spec = bundle::load(&new.bundle)?;
        bundle::check_pod(&spec)?;
        let annotations = spec.annotations().clone().unwrap_or_default();
        let config = Config::load(&new.options)?;
        let config = config.of_container(&annotations, bundle::origin(&spec, id), bundle::limits(&spec))?;
        let pod = bundle::pod_name(&spec);
        let network = bundle::network_namespace(&spec);
        let users = bundle::user_namespace(&spec)?;
        let cgroup = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
        let root = bundle::rootfs_of(&spec, &new.bundle, !new.rootfs.is_empty())?;
        let hooks = ContainerHooks::new(&spec, id, &new.bundle)?;
        let policy = HostPolicy::of(&spec, id, config.memory_mib)?;
        let guest = bundle::to_guest(spec, id, &bundle::Host { kvm: config.nested_virt, ..host })?;
        for note in &guest.notes {
            info!("{id}: {note}");
        }
        Ok(Plan { config, pod, network, users, cgroup, root, hooks, policy, guest })
    }

    /// Whether it needs a VM of its own, with no disks that are known by now.
    fn is_for_new_vm(&self) -> bool {
        self.policy.role != Role::Member && self.guest.disks.is_empty()
    }
}

/// Runs what may block on a thread where it blocks nobody.
pub async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work).await.map_err(|e| Error::internal(what).because(e))?
}

impl<H: Host> KrunSandbox<H> {
    /// Makes a container, and gives its pid on the host.
    pub(super) async fn make(&self, new: NewContainer) -> Result<u32> {
        let host = self.bundle_host()?;
        let machines = self.host.clone();
        let (plan, new) = blocking("translate the bundle", move || {
            let plan = Plan::read(&new, host)?;
            if plan.is_for_new_vm() {
                machines.expect_machine(Some((&plan.config, plan.policy.apparmor_profile.as_deref())));
            }
            Ok((plan, new))
        })
        .await?;
        failpoint!("create.planned");
        let endpoints = Endpoints::open(&new.stdio, &ProcessId::init(&new.id), &self.namespace).await?;
        failpoint!("create.stdio");
        let published = Bound::bind(&plan.config.ports)?;
        let Plan { config, pod, network, users, cgroup, root, hooks, policy, mut guest } = plan;
        let wanted = self.wanted(&config, policy.role).await;
        let sockets = guest.volumes.iter().enumerate().filter_map(|(number, volume)| match volume {
            Volume::Socket(socket) => Some((number, socket.clone())),
            Volume::Files(_) => None,
        });
        let sockets = sockets.collect();

        let mut side = HostSide::new(Arc::new(hooks));
        let built = async {
            let (snapshot, anchor) =
                self.take_place(&mut side, &new, (cgroup, root, wanted), &network, &policy).await?;
            let (rootfs, id, is_known) = (snapshot.root.clone(), new.id.clone(), snapshot.is_known());
            let root = Arc::new(snapshot.guest);
            let devices = guest.disks.clone();
            let looked = blocking("look at the files", move || {
                let files = view::files(&mut guest, &id, rootfs);
                if let Some(process) = guest.spec.process().as_ref().filter(|_| is_known) {
                    executable::check(process, &files)?;
                }
                let spec = serde_json::to_vec(&guest.spec);
                let spec = spec.map_err(|e| Error::internal("encode the guest's spec").because(e))?;
                Ok((guest.volumes, spec))
            });
            let (volumes, spec) = looked.await?;
            let asked_for = devices.clone();
            let opened = blocking("open the disks", move || {
                asked_for.iter().enumerate().map(|(number, disk)| VmDisk::device(number, disk)).collect()
            });
            let opened: Vec<VmDisk> = opened.await?;
            let disks = snapshot.disk.into_iter().chain(opened).collect();
            let (vm, follower, watched) = self
                .join(
                    &mut side,
                    &new.id,
                    (&config, &policy, users, pod),
                    anchor.pid(),
                    (root.clone(), disks, volumes),
                )
                .await?;
            let relays = vm.backend(anchor.pid()).and_then(|backend| {
                published.serve(&backend).map_err(|e| Error::internal("publish ports").because(e))
            })?;
            Ok((vm, anchor, (follower, watched), (relays, spec, root, devices)))
        };
        let (vm, anchor, (follower, watched), (relays, spec, root, disks)) = match built.await {
            Ok(built) => built,
            Err(error) => {
                self.host.expect_machine(None);
                let mut slot = self.vm.lock().await;
                if let (Some(ours), Some(theirs)) = (&side.vm, &*slot)
                    && Arc::ptr_eq(ours, theirs)
                {
                    slot.take();
                }
                drop(slot);
                side.undo().await;
                return Err(error);
            }
        };
        // From here on it is the container's, and goes with its snapshot.
        side.disk = None;
        let pid = anchor.pid();
        let container = Container::new((policy, new.options), relays, anchor, follower, side);
        self.lock().insert(new.id.clone(), container.clone());
        self.set_oom_score_adj(&vm);
        let blueprint = Blueprint { spec, stdio: new.stdio, endpoints, sockets, watched, root, disks };
        tokio::spawn(container.supervise(vm, blueprint));
        failpoint!("create.supervised");
        Ok(pid)
    }

    /// What is wanted of a container's rootfs: the first of a VM decides.
    async fn wanted(&self, config: &Config, role: Role) -> RootRequest {
        let has_upper = self.vm.lock().await.as_ref().map(|vm| vm.machine().has_upper());
        RootRequest { roots: config.rootfs, role, size_mib: config.rootfs_size_mib, has_upper }
    }

    /// Makes the container's cgroup, rootfs and anchor, and runs its hooks.
    async fn take_place(
        &self,
        side: &mut HostSide<H>,
        new: &NewContainer,
        (cgroup, root, wanted): (Option<PathBuf>, Root, RootRequest),
        network: &NetworkNamespace,
        policy: &HostPolicy,
    ) -> Result<(Snapshot<()>, Arc<H::Anchor>)> {
        if let Some(path) = cgroup {
            let (host, bundle, role) = (self.host.clone(), new.bundle.clone(), policy.role);
            let made = blocking("make the cgroup", move || host.cgroup(&path, &bundle, role)).await?;
            side.cgroup = Some(Arc::new(made));
            failpoint!("create.cgroup");
        }
        let (host, mounts) = (self.host.clone(), new.rootfs.clone());
        let mounted = blocking("mount the rootfs", move || host.rootfs(&mounts, &root, &wanted));
        let (mounts, snapshot) = mounted.await?.part();
        side.rootfs = Some(mounts);
        side.disk = snapshot.disk.as_ref().and_then(|disk| disk.made.clone());
        failpoint!("create.rootfs");
        let anchor = self.host.anchor(&new.id, &snapshot.root, network, side.cgroup.clone()).await?;
        let anchor = Arc::new(anchor);
        side.anchor = Some(anchor.clone());
        failpoint!("create.anchor");
        if let Some(cgroup) = side.cgroup.clone() {
            let (limits, role) = (policy.hosts.clone(), policy.role);
            side.seat = blocking("limit the cgroup", move || {
                match cgroup.limit(&limits) {
                    // They are there to be read: the guest enforces them.
                    Err(error) if role == Role::Member => info!("{error}"),
                    done => done?,
                }
                (role == Role::Sandbox).then(|| cgroup.seat()).transpose()
            })
            .await?;
        }
        failpoint!("create.limited");
        side.hooked = true;
        side.hooks.create_runtime(anchor.pid()).await?;
        Ok((snapshot, anchor))
    }

    /// Shows a container to the VM, which is made now for the first of them, and launched unless that waits for its start.
    async fn join(
        &self,
        side: &mut HostSide<H>,
        id: &str,
        (config, policy, users, pod): (&Config, &HostPolicy, Option<IdMaps>, Option<PodName>),
        anchor: u32,
        (root, disks, volumes): (Arc<GuestRoot>, Vec<VmDisk>, Vec<Volume>),
    ) -> Result<(Arc<Vm<H>>, Follower, Vec<Watched>)> {
        let mut slot = self.vm.lock().await;
        let vm = match &*slot {
            Some(vm) => {
                network::check(&config.ports, vm.network())?;
                vm.check_users(users.as_ref())?;
                if !disks.is_empty() {
                    return Err(Error::precondition(
                        "the VM was made meanwhile, and gets no more disks: create the pod's containers after its sandbox",
                    ));
                }
                vm.clone()
            }
            None => {
                let (host, config) = (self.host.clone(), config.clone());
                let (namespace, sandbox) = (self.namespace.clone(), self.sandbox.clone());
                let names = Names { namespace, sandbox, pod };
                let (profile, cgroup) = (policy.apparmor_profile.clone(), side.cgroup.clone());
                let machine = blocking("prepare the VM", move || {
                    let place = (anchor, cgroup.as_deref());
                    host.machine(&names, &config, place, profile.as_deref(), disks)
                });
                let vm = Arc::new(Vm::new(&self.sandbox, machine.await?, users));
                // From here on the VM is undone with the container.
                side.vm = Some(vm.clone());
                if vm.network() != Choice::TapAtStart {
                    vm.launch(anchor, side.cgroup.as_deref()).await?;
                }
                *slot = Some(vm.clone());
                vm
            }
        };
        drop(slot);
        let (sharing, id, watches) = (vm.clone(), id.to_owned(), config.watch_volumes);
        let share = blocking("share the files", move || {
            let share = sharing.machine().share(&id, &root.shared, &volumes)?;
            Ok((share, if watches { sharing.machine().watch(&id, &volumes) } else { Vec::new() }))
        });
        let (share, watched) = share.await?;
        let follower = share.follower().clone();
        side.share = Some(share);
        failpoint!("create.shared");
        Ok((vm, follower, watched))
    }
}
