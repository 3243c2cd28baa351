//! What is known of this host's sandboxes, for `krunctl ps`.

pub use crate::{
    files::status::{BootTimes, PodName, Process, Stat, Status, all, now_ms},
    network::is_tap,
};
