//! containerd-shim-krun-v2.

fn main() {}
