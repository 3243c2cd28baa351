//! containerd-shim-krunfp-v2, for tests only: the shim that waits at its failpoints. See `failpoint.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    shim::main()
}
