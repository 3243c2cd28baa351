//! krunctlfp, for tests only: krunctl that waits at failpoints. See `shim/src/failpoint.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    krunctl::main()
}
