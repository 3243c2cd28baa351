//! The binary `krunctl`; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    krunctl::main()
}
