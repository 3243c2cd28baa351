//! Launching a jailed vmm, and the handle to a running VM and its guest.
//!
//! A caller describes a VM ([`VmConfig`]), launches it ([`Vm::launch`]) and talks to PID 1 in it
//! ([`Vm::guest`]). This library must never call libkrun, which exits the process it runs in: that
//! is the work of the binary `krun-vmm`, which is started in namespaces of its own.

pub mod config;
mod console;
mod end;
pub mod find;
mod guest;
pub mod lines;
mod nonce;
pub mod order;
pub mod probe;
mod vm;

pub use config::{ConfigError, Network, Tap, VmConfig};
pub use end::VmEnd;
pub use guest::{Guest, GuestError};
pub use linux::pidfd::How;
pub use vm::{LaunchError, Vm};
