//! What happens once, before the first call of the host: the connections, the mounts, PID 1's own settings.

pub mod dial;
pub mod mounts;
pub mod system;
