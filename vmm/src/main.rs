//! krun-vmm.

fn main() {}
