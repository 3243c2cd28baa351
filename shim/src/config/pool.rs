//! Which VMs the pool keeps: the tables `[[pool]]`.

use serde::Deserialize;

use super::{Config, Limits, Origin, cpus_in_range, host_memory_mib, in_range, memory_in_range};
use crate::error::{Error, Result};

/// The largest count of one size.
const MOST: i64 = 256;

/// VMs that are kept where the configuration names none.
const DEFAULT_COUNT: usize = 2;

/// So many VMs of a size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSize {
    count: usize,
    /// That of a container without limits, where it is not given.
    cpus: Option<u8>,
    /// As `cpus`.
    memory_mib: Option<u32>,
}

/// A table of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    count: i64,
    cpus: Option<i64>,
    memory_mib: Option<i64>,
}

/// What the tables say.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the key and what is allowed.
pub fn sizes(layers: Vec<Layer>) -> Result<Vec<PoolSize>> {
    let size = |Layer { count, cpus, memory_mib }| {
        Ok(PoolSize {
            count: in_range("pool.count", count, 0, MOST, "of one size")? as usize,
            cpus: cpus.map(|cpus| cpus_in_range("pool.cpus", cpus)).transpose()?,
            memory_mib: memory_mib.map(|memory| memory_in_range("pool.memory_mib", memory)).transpose()?,
        })
    };
    layers.into_iter().map(size).collect()
}

impl PoolSize {
    /// How each VM is made that the pool keeps, and how many there are of it.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when the host has not as much memory.
    pub fn of(config: &Config) -> Result<Vec<(Config, usize)>> {
        let plain = config.clone().of_container([], Origin::Host, Limits::default())?;
        let default = vec![PoolSize { count: DEFAULT_COUNT, cpus: None, memory_mib: None }];
        let wanted = config.pool.as_ref().unwrap_or(&default);
        let sizes: Vec<_> = wanted.iter().map(|size| (size.apply(&plain), size.count)).collect();
        let all: u64 = sizes.iter().map(|(one, count)| u64::from(one.memory_mib) * *count as u64).sum();
        let host = u64::from(host_memory_mib());
        if all > host {
            return Err(Error::invalid(format!(
                "pool: VMs with {all} MiB: must be at most {host} (this host's memory)"
            )));
        }
        Ok(sizes)
    }

    fn apply(&self, plain: &Config) -> Config {
        Config {
            cpus: self.cpus.unwrap_or(plain.cpus),
            memory_mib: self.memory_mib.unwrap_or(plain.memory_mib),
            ..plain.clone()
        }
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
        let sizes = PoolSize::of(&config(text)?)?;
        Ok(sizes.iter().map(|(one, count)| (one.cpus, one.memory_mib, *count)).collect())
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
    fn wrong_values_are_named() {
        for (text, words) in [
            ("[[pool]]\ncount = 257", &["pool.count = 257", "0 to 256"][..]),
            ("[[pool]]\ncount = 1\ncpus = 17", &["pool.cpus = 17", "1 to 16"]),
            ("[[pool]]\ncount = 1\nmemory_mib = 1", &["pool.memory_mib = 1", "128"]),
            ("[[pool]]\ncount = 1\nram = 1", &["ram", "memory_mib"]),
            ("[[pool]]\ncpus = 1", &["count"]),
        ] {
            let error = config(text).err().unwrap().to_string();
            assert!(words.iter().all(|word| error.contains(word)) && error.starts_with("a.toml"), "{error}");
        }
        let text = format!("[[pool]]\ncount = 2\nmemory_mib = {}", host_memory_mib());
        let error = kept(&text).unwrap_err().to_string();
        assert!(error.contains("at most"), "{error}");
    }
}
