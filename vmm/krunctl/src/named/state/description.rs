//! What the files of a VM's state say.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{inject::Injection, network::Plan, root::Origin};

/// The form of `vm.json`.
pub const VERSION: u32 = 1;

/// How a VM was made.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// [`VERSION`].
    pub version: u32,
    /// Its root file system.
    pub root: Origin,
    /// What to call that.
    pub shown: String,
    /// What asks its command to end.
    pub stop_signal: i32,
    /// vCPUs.
    pub cpus: u8,
    /// MiB.
    pub memory: u32,
    /// The configuration of its sandbox, in TOML.
    pub options: String,
    /// Whether all is logged, and the kernel's console with it.
    pub debug: bool,
    /// What is put into its image at each start.
    pub inject: Vec<Injection>,
    /// Its network.
    pub network: Plan,
    /// The OCI spec of its container.
    pub spec: Value,
    /// Files of its bundle besides, by name.
    pub files: BTreeMap<String, String>,
    /// When it was made, in seconds since the epoch.
    pub created: u64,
}

/// How a VM ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The command's exit status.
    pub status: u32,
    /// When, in seconds since the epoch.
    pub at: u64,
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
