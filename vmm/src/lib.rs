//! What krun-vmm is made of. It is a library only so that the vmm of the `hostile-vmm` scenarios
//! (`integration/hostile-vmm`) is launched and jailed by the same code; nobody else uses it.

pub mod become_vm;
mod disks;
mod guest_memory;
mod jail;
mod kernel_files;
mod krun;
mod kvm_guest;
mod reuse_address;
mod special_files;

use std::{env, process::ExitCode};

/// Exit status of a command line that nobody understands. Source: `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;

/// The whole program. Its command line is for the launcher only: `vm` becomes a VM, as told over inherited descriptors;
/// `probe` runs a few instructions on KVM.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    match arguments.iter().map(|argument| argument.to_str()).collect::<Vec<_>>()[..] {
        [Some("vm")] => become_vm::main(),
        [Some("probe")] => kvm_guest::main(),
        [Some("--version" | "-V")] => {
            println!("krun-vmm {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!(
                "krun-vmm: it becomes a VM, which the shim and krunctl start; `krunctl --help` lists what to type"
            );
            ExitCode::from(USAGE)
        }
    }
}
