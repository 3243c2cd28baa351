//! What the host gets to read: PID 1's own log and the guest kernel's.

pub mod kmsg;
pub mod logger;
