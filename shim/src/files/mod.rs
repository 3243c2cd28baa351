//! Files of the host that a guest sees, and what holds them.

pub mod disk;
pub mod follow;
pub mod forward;
pub mod mount;
pub mod pin;
pub mod share;
pub mod state_dir;
pub mod status;
pub mod watch;
