//! Launches a microVM in a jailed process of its own, and talks to the guest in it.
//!
//! A caller describes a VM ([`VmConfig`]), launches it ([`Vm::launch`]), and calls PID 1 in it ([`Vm::guest`]): to make
//! containers, to run commands in them, to move their input and output, and to connect to their servers ([`Guest::client`],
//! [`Guest::streams`]). There is no daemon. A VM ends with its [`Vm`], and with the process that has it, however that ends.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use vm_launcher::{
//!     Vm, VmConfig, find,
//!     guest_protocol::{api::ConfigureRequest, failure::CallError, ttrpc::context},
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // The share is a shared mount with the directories of `boot::MOUNT_POINTS`, and both directories are there: the examples' Share
//! // makes them.
//! let (libkrunfw, guest_init) = (find::libkrunfw(None)?, find::guest_init(None)?);
//! let config =
//!     VmConfig { memory_mib: 256, ..VmConfig::new("/run/demo/share", "/run/demo/sock", libkrunfw, guest_init) };
//! let vm = Vm::launch(config).await?;
//! let guest = vm.guest(Duration::from_secs(60)).await?;
//!
//! let soon = context::with_duration(Duration::from_secs(10));
//! let request = ConfigureRequest { hostname: "demo".to_owned(), ..Default::default() };
//! let answer = guest.client.configure(soon, &request).await.map_err(CallError::from)?;
//! println!("a VM with kernel {:?}", answer.kernel);
//!
//! vm.kill();
//! println!("{}", vm.ended().await);
//! # Ok(())
//! # }
//! ```
//!
//! # Examples
//!
//! [`examples`] has whole programs, which the project's own tests run: [`run`](examples::run) a command,
//! [`exec`](examples::exec) more of them beside it, its [`streams`](examples::streams), [`volumes`](examples::volumes) and
//! [`ports`](examples::ports). `cargo run --example run -- /srv/alpine /bin/uname -r`, as root, runs the first.
//!
//! # What it needs
//!
//! - x86_64 Linux with a /dev/kvm that works: [`probe::guest`] tells whether it does, and else what to do.
//! - root: a VM gets namespaces, and what the guest shows must be mounted.
//! - the project's programs `krun-vmm`, which becomes the VM, and `guest-init`, which becomes PID 1 in it, of the same version as
//!   this library; and `libkrunfw.so.5`, the guest's kernel. [`find`] says where they are looked for.
//! - a [tokio](https://tokio.rs) runtime. Nothing here blocks it, unless its text says so.
//! - a thread for [`Vm::launch`] that lives as long as the VM: the VM ends with it.
//! - its children for itself: a caller that ignores SIGCHLD, or waits for any child, takes the vmm's end from it.
//!
//! # Who is trusted
//!
//! The guest is hostile: nothing of what it says is more than a claim, and every call of it needs a time limit. Its vmm is
//! assumed to be the guest's as well, and is jailed: it reaches the [share](VmConfig::share), its socket and /dev/kvm, and
//! nothing else of the host. What the caller puts into the share, the guest has.
//!
//! # What it is not
//!
//! It makes no mounts, networks, cgroups or images: a caller brings those that its VMs are to have. This library must never call
//! libkrun, which exits its process; only `krun-vmm` does.

mod attend;
pub mod config;
mod console;
mod control;
pub mod disk;
mod end;
#[cfg(doc)]
pub mod examples;
pub mod find;
mod guest;
pub mod kernel;
mod kvm_file;
pub mod lines;
mod lost;
mod nonce;
pub mod order;
pub mod parts;
pub mod probe;
mod refused;
mod vm;
mod waiting;

pub use config::{ConfigError, Network, PathProblem, Tap, VmConfig};
pub use disk::Disk;
pub use end::VmEnd;
pub use guest::{Guest, GuestError, Refusal};
pub use guest_protocol;
pub use kernel::{BadKernel, Kernel};
pub use linux::{spawn::SpawnError, wait::ExitStatus};
pub use lost::Lost;
pub use nix::unistd::Pid;
pub use vm::{LaunchError, Vm};
pub use waiting::{Handle, Left, Waiting};
