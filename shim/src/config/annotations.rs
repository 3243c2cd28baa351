//! Configuration by annotation, where the administrator's files allow it. A new annotation is a new line of
//! [`ANNOTATIONS`].

use super::Config;
use crate::{
    error::{Error, Result},
    network,
};

/// What our annotations begin with.
pub const PREFIX: &str = "io.containerd.krun.";

/// One annotation.
struct Annotation {
    /// Its name, without the prefix.
    name: &'static str,
    /// Reads its value and puts it where it belongs.
    set: fn(&mut Config, &str) -> Result<()>,
}

/// Every annotation that exists.
const ANNOTATIONS: [Annotation; 6] = [
    Annotation {
        name: "cpus",
        set: |config, value| {
            config.set_cpus("cpus", number("cpus", value)?)?;
            config.cpus_fixed = true;
            Ok(())
        },
    },
    Annotation {
        name: "memory_mib",
        set: |config, value| {
            config.set_memory_mib("memory_mib", number("memory_mib", value)?)?;
            config.memory_fixed = true;
            Ok(())
        },
    },
    Annotation { name: "max_cpus", set: |config, value| config.set_max_cpus(number("max_cpus", value)?) },
    Annotation {
        name: "max_memory_mib",
        set: |config, value| config.set_max_memory_mib(number("max_memory_mib", value)?),
    },
    Annotation { name: "network", set: Config::set_network },
    Annotation {
        name: "ports",
        set: |config, value| {
            config.ports = network::ports::parse(value)?;
            Ok(())
        },
    },
];

/// The names of all annotations, without prefix.
pub fn names() -> impl Iterator<Item = &'static str> {
    ANNOTATIONS.iter().map(|annotation| annotation.name)
}

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
    find(name).map(|_| ())
}

fn find(name: &str) -> Result<&'static Annotation> {
    ANNOTATIONS.iter().find(|annotation| annotation.name == name).ok_or_else(|| {
        let names: Vec<_> = names().collect();
        Error::invalid(format!("no annotation is named {name:?}: there are {}", names.join(", ")))
    })
}

fn set(config: &mut Config, name: &str, value: &str) -> Result<()> {
    let annotation = find(name)?;
    if !config.enable_annotations.iter().any(|enabled| enabled == name) {
        let allowed = config.enable_annotations.join(", ");
        return Err(Error::invalid(format!("not allowed by enable_annotations, which has: {allowed}")));
    }
    (annotation.set)(config, value)
}

fn number(name: &str, value: &str) -> Result<i64> {
    let number = value.trim().parse();
    number.map_err(|_| Error::invalid(format!("{name} = {value:?}: must be a whole number")))
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
    fn each_has_its_own_target() {
        let default = Config::default();
        for (name, value, expected) in [
            ("cpus", "3", Config { cpus: 3, cpus_fixed: true, ..default.clone() }),
            ("memory_mib", "256", Config { memory_mib: 256, memory_fixed: true, ..default.clone() }),
            ("max_cpus", "4", Config { max_cpus: 4, ..default.clone() }),
            ("max_memory_mib", "512", Config { max_memory_mib: 512, ..default.clone() }),
            ("network", "none", Config { network: network::Mode::None, ..default.clone() }),
            (
                "ports",
                "8080:80",
                Config { ports: network::ports::parse("8080:80").unwrap(), ..default.clone() },
            ),
        ] {
            assert_eq!(one(&format!("{PREFIX}{name}"), value).unwrap(), expected, "{name}");
        }
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
