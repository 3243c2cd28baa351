//! containerd-shim-krun-v2, the executable: all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    shim::main()
}
