//! Configuration by annotation, where the administrator's files allow it.

use super::Config;
use crate::{
    error::{Error, Result},
    network,
};

/// What our annotations begin with.
pub const PREFIX: &str = "io.containerd.krun.";

/// Every annotation that exists, without its prefix.
pub const KNOWN: [&str; 6] = ["cpus", "memory_mib", "max_cpus", "max_memory_mib", "network", "ports"];

/// Annotations of crun's krun handler, and ours that mean the same.
/// Source: crun's `src/libcrun/handlers/krun.c`.
const CRUN: [(&str, &str); 2] = [("krun.cpus", "cpus"), ("krun.ram_mib", "memory_mib")];

/// Applies those of `annotations` that are ours.
pub fn apply<'a>(
    config: &mut Config,
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<()> {
    for (key, value) in annotations {
        let crun = CRUN.iter().find(|(theirs, _)| theirs == key).map(|(_, ours)| *ours);
        let Some(name) = crun.or_else(|| key.strip_prefix(PREFIX)) else { continue };
        set(config, name, value).map_err(|e| e.context(format!("annotation {key}")))?;
    }
    Ok(())
}

/// Refuses a name that no annotation has.
pub fn check_name(name: &str) -> Result<()> {
    match KNOWN.contains(&name) {
        true => Ok(()),
        false => {
            Err(Error::invalid(format!("no annotation is named {name:?}: there are {}", KNOWN.join(", "))))
        }
    }
}

fn set(config: &mut Config, name: &str, value: &str) -> Result<()> {
    check_name(name)?;
    if !config.enable_annotations.iter().any(|enabled| enabled == name) {
        let allowed = config.enable_annotations.join(", ");
        return Err(Error::invalid(format!("not allowed by enable_annotations, which has: {allowed}")));
    }
    let number = || {
        let number = value.trim().parse();
        number.map_err(|_| Error::invalid(format!("{name} = {value:?}: must be a whole number")))
    };
    match name {
        "cpus" => {
            config.set_cpus(name, number()?)?;
            config.cpus_fixed = true;
        }
        "memory_mib" => {
            config.set_memory_mib(name, number()?)?;
            config.memory_fixed = true;
        }
        "max_cpus" => config.set_max_cpus(number()?)?,
        "max_memory_mib" => config.set_max_memory_mib(number()?)?,
        "ports" => config.ports = network::ports::parse(value)?,
        _ => config.set_network(value)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> Result<Config> {
        let mut config = Config::default();
        apply(&mut config, [(&key.to_owned(), &value.to_owned())])?;
        Ok(config)
    }

    #[test]
    fn ours_and_cruns_are_understood() {
        assert_eq!(one("io.containerd.krun.cpus", "3").unwrap().cpus, 3);
        assert_eq!(one("krun.ram_mib", "256").unwrap().memory_mib, 256);
        assert_eq!(one("somebody.else", "x").unwrap(), Config::default());
    }

    #[test]
    fn bad_ones_are_named() {
        for (key, value, expected) in [
            (
                "io.containerd.krun.nonsense",
                "1",
                "there are cpus, memory_mib, max_cpus, max_memory_mib, network, ports",
            ),
            ("io.containerd.krun.cpus", "0", "must be 1 to 16"),
            ("krun.cpus", "many", "must be a whole number"),
            ("io.containerd.krun.ports", "8080", "\"8080\": must be HOST:TASK"),
            ("io.containerd.krun.memory_mib", "64", "must be 128 to"),
            ("io.containerd.krun.network", "bridge", "must be one of \"auto\", \"tsi\", \"tap\", \"none\""),
        ] {
            let error = one(key, value).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_the_files_do_not_allow_is_refused() {
        let mut config = Config { enable_annotations: vec!["network".to_owned()], ..Config::default() };
        let key = "io.containerd.krun.cpus".to_owned();
        let error = apply(&mut config, [(&key, &"2".to_owned())]).unwrap_err().to_string();
        assert!(error.contains("not allowed by enable_annotations, which has: network"), "{error}");
    }
}
