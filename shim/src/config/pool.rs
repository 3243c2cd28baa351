//! Which VMs the pool keeps: the tables `[[pool]]`.

use serde::Deserialize;

use super::{Config, Limits, Origin, cpus_in_range, host_memory_mib, in_range, memory_in_range};
use crate::{
    bundle::apparmor,
    error::{Error, Result},
};

/// The largest count of one size.
const MOST: i64 = 256;

/// VMs that are kept where the configuration names none.
const DEFAULT_COUNT: usize = 2;

/// So many VMs of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolTable {
    count: usize,
    /// That of a container without limits, where it is not given.
    cpus: Option<u8>,
    /// As `cpus`.
    memory_mib: Option<u32>,
    apparmor_profile: Option<String>,
}

/// VMs that are kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// How many.
    pub count: usize,
    /// How each is made.
    pub config: Config,
    /// The AppArmor profile of each vmm.
    pub apparmor_profile: Option<String>,
}

/// A table of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    count: i64,
    cpus: Option<i64>,
    memory_mib: Option<i64>,
    apparmor_profile: Option<String>,
}

/// What the tables say.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the key and what is allowed.
pub fn tables(layers: Vec<Layer>) -> Result<Vec<PoolTable>> {
    let table = |Layer { count, cpus, memory_mib, apparmor_profile }| {
        let profile = apparmor_profile.unwrap_or_default();
        Ok(PoolTable {
            count: in_range("pool.count", count, 0, MOST, "of one size")? as usize,
            cpus: cpus.map(|cpus| cpus_in_range("pool.cpus", cpus)).transpose()?,
            memory_mib: memory_mib.map(|memory| memory_in_range("pool.memory_mib", memory)).transpose()?,
            apparmor_profile: apparmor::parse("pool.apparmor_profile", &profile)?,
        })
    };
    layers.into_iter().map(table).collect()
}

impl Kept {
    /// What the pool keeps.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when the host has not as much memory.
    pub fn of(config: &Config) -> Result<Vec<Kept>> {
        let plain = config.clone().of_container([], Origin::Host, Limits::default())?;
        let default = vec![PoolTable { count: DEFAULT_COUNT, ..PoolTable::default() }];
        let wanted = config.pool.as_ref().unwrap_or(&default);
        let kept: Vec<_> = wanted.iter().map(|table| table.apply(&plain)).collect();
        let all: u64 = kept.iter().map(|kept| u64::from(kept.config.memory_mib) * kept.count as u64).sum();
        let host = u64::from(host_memory_mib());
        if all > host {
            return Err(Error::invalid(format!(
                "pool: VMs with {all} MiB: must be at most {host} (this host's memory)"
            )));
        }
        Ok(kept)
    }
}

impl PoolTable {
    fn apply(&self, plain: &Config) -> Kept {
        let config = Config {
            cpus: self.cpus.unwrap_or(plain.cpus),
            memory_mib: self.memory_mib.unwrap_or(plain.memory_mib),
            ..plain.clone()
        };
        Kept { count: self.count, config, apparmor_profile: self.apparmor_profile.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config> {
        let mut config = Config::default();
        config.apply(text, "a.toml").map(|()| config)
    }

    fn kept(text: &str) -> Result<Vec<(u8, u32, usize)>> {
        let kept = Kept::of(&config(text)?)?;
        Ok(kept.iter().map(|kept| (kept.config.cpus, kept.config.memory_mib, kept.count)).collect())
    }

    #[test]
    fn two_of_the_default_size_are_kept_by_default() {
        assert_eq!(kept("default_memory_mib = 256").unwrap(), [(1, 256, 2)]);
        assert_eq!(kept("pool = []").unwrap(), []);
    }

    #[test]
    fn a_table_names_a_size() {
        let text = "[[pool]]\ncount = 3\n[[pool]]\ncount = 1\ncpus = 2\nmemory_mib = 128";
        assert_eq!(kept(text).unwrap(), [(1, 1024, 3), (2, 128, 1)]);
    }

    #[test]
    fn vmms_may_have_a_profile() {
        let profile = |text: &str| Kept::of(&config(text).unwrap()).unwrap()[0].apparmor_profile.clone();
        assert_eq!(profile("[[pool]]\ncount = 1\napparmor_profile = \"p\""), Some("p".to_owned()));
        assert_eq!(profile("[[pool]]\ncount = 1\napparmor_profile = \"unconfined\""), None);
        assert_eq!(profile("[[pool]]\ncount = 1"), None);
    }

    #[test]
    fn wrong_values_are_named() {
        for (text, words) in [
            ("[[pool]]\ncount = 257", &["pool.count = 257", "0 to 256"][..]),
            ("[[pool]]\ncount = 1\ncpus = 17", &["pool.cpus = 17", "1 to 16"]),
            ("[[pool]]\ncount = 1\nmemory_mib = 1", &["pool.memory_mib = 1", "128"]),
            ("[[pool]]\ncount = 1\nram = 1", &["ram", "memory_mib"]),
            ("[[pool]]\ncpus = 1", &["count"]),
            ("[[pool]]\ncount = 1\napparmor_profile = \"a\\nb\"", &["pool.apparmor_profile", "newline"]),
        ] {
            let error = config(text).err().unwrap().to_string();
            assert!(words.iter().all(|word| error.contains(word)) && error.starts_with("a.toml"), "{error}");
        }
        let text = format!("[[pool]]\ncount = 2\nmemory_mib = {}", host_memory_mib());
        let error = kept(&text).unwrap_err().to_string();
        assert!(error.contains("at most"), "{error}");
    }
}
