//! krun-vmm: becomes a VM. Only the launcher starts it: the program that a hostile guest may take over has no command line
//! for people, which is krunctl's (`vmm/krunctl`).

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::main()
}
