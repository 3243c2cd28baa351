//! Launches a jailed vmm, and gives a handle to the running VM and to its guest.
//!
//! A caller describes a VM ([`VmConfig`]), launches it ([`Vm::launch`]) and calls PID 1 in it ([`Vm::guest`]). This library
//! must never call libkrun, which exits its process. Only the binary `krun-vmm` does, which runs in namespaces of its own.

pub mod config;
mod console;
mod control;
mod end;
pub mod find;
mod guest;
pub mod lines;
mod lost;
mod nonce;
pub mod order;
pub mod parts;
pub mod probe;
mod refused;
mod vm;

pub use config::{ConfigError, Network, Tap, VmConfig};
pub use end::VmEnd;
pub use guest::{Guest, GuestError};
pub use linux::pidfd::ExitStatus;
pub use lost::Lost;
pub use vm::{LaunchError, Vm};
