//! The texts of the programs in `examples/`, for reading. Only the documentation has this module.
//!
//! All of them build on [`common`], which boots a VM with one container. `cargo build --examples` builds them; a scenario
//! (`library-examples`) runs each in a real VM and checks what it prints.

macro_rules! text {
    ($(#[$about:meta])* $name:ident, $path:literal) => {
        $(#[$about])*
        ///
        /// ```ignore
        #[doc = include_str!($path)]
        /// ```
        pub mod $name {}
    };
}

text! {
    /// What the others have in common: the share, the VM, the container's OCI spec, its start and its end.
    common, "../examples/common/mod.rs"
}
text! {
    /// Runs a command in a VM, with its output and exit status.
    run, "../examples/run.rs"
}
text! {
    /// Runs more commands in a container that is there, and tells why one was not run.
    exec, "../examples/exec.rs"
}
text! {
    /// Moves input and both outputs at once, each with its own flow control.
    streams, "../examples/streams.rs"
}
text! {
    /// Shows the container a directory of the host, writable and read-only.
    volumes, "../examples/volumes.rs"
}
text! {
    /// Lets clients of the host reach a server in a VM that has no network.
    ports, "../examples/ports.rs"
}
