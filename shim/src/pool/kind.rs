//! What tells one VM that waits from another: a shim takes none that it would have made otherwise.

use std::{fs, io, os::unix::fs::MetadataExt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    error::{Error, Result},
    host::parts::Parts,
};

/// How a VM was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// The version of the program that made it.
    version: String,
    cpus: u8,
    memory_mib: u32,
    apparmor_profile: Option<String>,
    debug: bool,
    files: Vec<PartId>,
}

/// A file as it was found: one that was replaced meanwhile is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartId {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    /// The last change of its contents or its inode: seconds and nanoseconds.
    changed: (i64, i64),
}

impl Kind {
    /// That of VMs which are made of `parts` as `config` wants it, and whose vmms have this AppArmor profile.
    ///
    /// # Errors
    /// When a part cannot be looked at.
    pub fn of(config: &Config, apparmor_profile: Option<&str>, parts: &Parts) -> Result<Kind> {
        let kernel = parts.kernel.as_ref().map_or(parts.libkrunfw.as_path(), |kernel| kernel.path());
        let files = [kernel, &parts.guest_init, &parts.vmm].map(|path| {
            identify(path.to_owned())
                .map_err(|e| Error::internal(format!("look at {}", path.display())).because(e))
        });
        Ok(Kind {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cpus: config.cpus,
            memory_mib: config.memory_mib,
            apparmor_profile: apparmor_profile.map(str::to_owned),
            debug: log::max_level() >= log::LevelFilter::Debug,
            files: files.into_iter().collect::<Result<_>>()?,
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "the administrator names it")]
fn identify(path: PathBuf) -> io::Result<PartId> {
    let found = fs::metadata(&path)?;
    let changed = (found.ctime(), found.ctime_nsec());
    Ok(PartId { path, device: found.dev(), inode: found.ino(), size: found.size(), changed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_was_replaced_makes_another_kind() {
        let dir = tempfile::tempdir().unwrap();
        let part = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let parts = Parts { kernel: None, libkrunfw: part("fw"), guest_init: part("init"), vmm: part("vmm") };
        let config = Config::default();
        let kind = Kind::of(&config, None, &parts).unwrap();
        assert_eq!(kind, Kind::of(&config, None, &parts).unwrap());
        assert_ne!(kind, Kind::of(&Config { memory_mib: 256, ..config.clone() }, None, &parts).unwrap());
        assert_ne!(kind, Kind::of(&config, Some("p"), &parts).unwrap());
        // As a package manager does.
        fs::rename(part("new"), dir.path().join("vmm")).unwrap();
        assert_ne!(kind, Kind::of(&config, None, &parts).unwrap());
        fs::remove_file(dir.path().join("init")).unwrap();
        assert!(Kind::of(&config, None, &parts).unwrap_err().to_string().contains("init"));
    }
}
