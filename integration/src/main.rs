//! krun-scenarios.

fn main() {}
