//! krun-vmm: becomes a VM (`vm`, which only the launcher starts), runs a command in a VM (`run`), or checks whether this
//! host can run VMs (`check`).

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::main()
}
