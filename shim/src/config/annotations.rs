//! Configuration by annotation, where the administrator's files allow it. A new annotation is a new line of
//! [`ANNOTATIONS`].
//!
//! Who starts a container outside of Kubernetes is root on the host. A pod's author is not: of what an annotation can ask
//! for, a pod gets only what opens nothing of the host and needs no more of it than the pod may use anyway.

use super::{Config, Size};
use crate::{
    error::{Error, Result},
    network,
};

/// What our annotations begin with.
pub const PREFIX: &str = "io.containerd.krun.";

/// The most characters of a value that an error repeats.
const SHOWN: usize = 64;

/// Who wrote the annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// Root of the host.
    Host,
    /// A pod's author, whose VM may be as large as this.
    Pod(Size),
}

/// When pods may use an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InPods {
    /// Unless the administrator's list says otherwise.
    ByDefault,
    /// When the administrator lists it.
    Listed,
    /// Whatever is listed.
    Never,
}

/// One annotation.
struct Annotation {
    /// Its name, without the prefix.
    name: &'static str,
    /// When pods may use it.
    in_pods: InPods,
    /// Reads its value and puts it where it belongs.
    set: fn(&mut Config, &str) -> Result<()>,
}

/// Every annotation that exists.
const ANNOTATIONS: [Annotation; 9] = [
    Annotation {
        name: "cpus",
        in_pods: InPods::ByDefault,
        set: |config, value| {
            config.set_cpus("cpus", number("cpus", value)?)?;
            config.cpus_fixed = true;
            Ok(())
        },
    },
    Annotation {
        name: "memory_mib",
        in_pods: InPods::ByDefault,
        set: |config, value| {
            config.set_memory_mib("memory_mib", number("memory_mib", value)?)?;
            config.memory_fixed = true;
            Ok(())
        },
    },
    Annotation {
        name: "max_cpus",
        in_pods: InPods::Listed,
        set: |config, value| config.set_max_cpus(number("max_cpus", value)?),
    },
    Annotation {
        name: "max_memory_mib",
        in_pods: InPods::Listed,
        set: |config, value| config.set_max_memory_mib(number("max_memory_mib", value)?),
    },
    // It opens more of the host's KVM to the guest.
    Annotation {
        name: "nested_virt",
        in_pods: InPods::Listed,
        set: |config, value| {
            config.nested_virt = boolean("nested_virt", value)?;
            Ok(())
        },
    },
    Annotation { name: "network", in_pods: InPods::ByDefault, set: Config::set_network },
    // What is written to a disk is not what the kubelet counts, and what is not has no size.
    Annotation { name: "rootfs", in_pods: InPods::Listed, set: Config::set_rootfs },
    // It is room on the host's disk: a pod may ask for less than the administrator's files give, and not for more.
    Annotation {
        name: "rootfs_size_mib",
        in_pods: InPods::ByDefault,
        set: |config, value| config.set_rootfs_size_mib(number("rootfs_size_mib", value)?),
    },
    Annotation {
        name: "ports",
        in_pods: InPods::Never,
        set: |config, value| {
            config.ports = network::ports::parse(value)?;
            Ok(())
        },
    },
];

/// Annotations of crun's krun handler, and ours that mean the same.
/// Source: crun's `src/libcrun/handlers/krun.c`.
const CRUN: [(&str, &str); 2] = [("krun.cpus", "cpus"), ("krun.ram_mib", "memory_mib")];

/// Applies those of `annotations` that are ours.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the annotation, its value and what is allowed.
pub fn apply<'a>(
    config: &mut Config,
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
    author: Author,
) -> Result<()> {
    for (key, value) in annotations {
        let crun = CRUN.iter().find(|(theirs, _)| theirs == key).map(|(_, ours)| *ours);
        let Some(name) = crun.or_else(|| key.strip_prefix(PREFIX)) else { continue };
        set(config, name, value, author).map_err(|e| e.context(format!("annotation {key}")))?;
    }
    Ok(())
}

/// Refuses a name that no annotation has.
pub fn check_name(name: &str) -> Result<()> {
    find(name).map(|_| ())
}

fn find(name: &str) -> Result<&'static Annotation> {
    ANNOTATIONS.iter().find(|annotation| annotation.name == name).ok_or_else(|| {
        let names: Vec<_> = ANNOTATIONS.iter().map(|annotation| annotation.name).collect();
        Error::invalid(format!("no annotation is named {name:?}: there are {}", names.join(", ")))
    })
}

fn set(config: &mut Config, name: &str, value: &str, author: Author) -> Result<()> {
    let annotation = find(name)?;
    if !is_allowed(annotation, config, author) {
        let allowed: Vec<_> = ANNOTATIONS
            .iter()
            .filter(|annotation| is_allowed(annotation, config, author))
            .map(|annotation| annotation.name)
            .collect();
        let (shown, allowed) = (shown(value), allowed.join(", "));
        return Err(Error::invalid(match (author, annotation.in_pods) {
            (Author::Pod(_), InPods::Never) => {
                format!("{shown} in a pod: no pod may set this; pods may set: {allowed}")
            }
            (Author::Pod(_), _) => {
                format!("{shown} in a pod: not allowed by enable_annotations; pods may set: {allowed}")
            }
            (Author::Host, _) => format!("{shown}: not allowed by enable_annotations, which has: {allowed}"),
        }));
    }
    let room = config.rootfs_size_mib;
    (annotation.set)(config, value)?;
    match author {
        Author::Pod(_) if config.rootfs_size_mib > room => Err(Error::invalid(format!(
            "rootfs_size_mib = {} in a pod: at most {room}, which the configuration gives",
            config.rootfs_size_mib
        ))),
        Author::Pod(most) => check_size(config, most),
        Author::Host => Ok(()),
    }
}

fn is_allowed(annotation: &Annotation, config: &Config, author: Author) -> bool {
    let listed = config.enable_annotations.as_ref().map(|names| names.iter().any(|n| n == annotation.name));
    match (author, annotation.in_pods) {
        (Author::Pod(_), InPods::Never) => false,
        (Author::Pod(_), in_pods) => listed.unwrap_or(in_pods == InPods::ByDefault),
        (Author::Host, _) => listed.unwrap_or(true),
    }
}

/// Refuses a VM larger than a pod may have.
fn check_size(config: &Config, most: Size) -> Result<()> {
    let Size { cpus, memory_mib } = config.asked_size();
    let refuse = |has: u64, may: u64, unit: &str, key: &str| {
        Err(Error::invalid(format!(
            "a VM of {has} {unit} in a pod: at most {may}, which its limits and the configuration give; {key} allows more"
        )))
    };
    if cpus > most.cpus {
        return refuse(cpus.into(), most.cpus.into(), "cpus", "pod_max_cpus");
    }
    if memory_mib > most.memory_mib {
        return refuse(memory_mib.into(), most.memory_mib.into(), "MiB", "pod_max_memory_mib");
    }
    Ok(())
}

/// A value for an error's text, which a stranger wrote.
fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &value[..end]),
        None => format!("{value:?}"),
    }
}

fn number(name: &str, value: &str) -> Result<i64> {
    let number = value.trim().parse();
    number.map_err(|_| Error::invalid(format!("{name} = {value:?}: must be a whole number")))
}

fn boolean(name: &str, value: &str) -> Result<bool> {
    let boolean = value.trim().parse();
    boolean.map_err(|_| Error::invalid(format!("{name} = {value:?}: must be true or false")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Roots;

    /// What a pod may have in these tests.
    const POD: Author = Author::Pod(Size { cpus: 2, memory_mib: 1024 });

    fn by(author: Author, mut config: Config, key: &str, value: &str) -> Result<Config> {
        apply(&mut config, [(&key.to_owned(), &value.to_owned())], author)?;
        Ok(config)
    }

    fn one(key: &str, value: &str) -> Result<Config> {
        by(Author::Host, Config::default(), key, value)
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
            ("nested_virt", "true", Config { nested_virt: true, ..default.clone() }),
            ("network", "none", Config { network: network::Mode::None, ..default.clone() }),
            ("rootfs", "block", Config { rootfs: Roots::Block, ..default.clone() }),
            ("rootfs_size_mib", "64", Config { rootfs_size_mib: 64, ..default.clone() }),
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
                "there are cpus, memory_mib, max_cpus, max_memory_mib, nested_virt, network, rootfs, rootfs_size_mib, ports",
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
        let config = Config { enable_annotations: Some(vec!["network".to_owned()]), ..Config::default() };
        for author in [Author::Host, POD] {
            let error = by(author, config.clone(), "krun.cpus", "1").unwrap_err().to_string();
            assert!(
                error.starts_with("annotation krun.cpus: \"1\"") && error.ends_with(": network"),
                "{error}"
            );
            assert!(error.contains("not allowed by enable_annotations"), "{error}");
            assert!(by(author, config.clone(), "io.containerd.krun.network", "tsi").is_ok());
        }
    }

    #[test]
    fn a_pod_lowers_and_chooses() {
        for (key, value) in [
            ("io.containerd.krun.cpus", "2"),
            ("krun.ram_mib", "1024"),
            ("io.containerd.krun.network", "none"),
            ("io.containerd.krun.rootfs_size_mib", "64"),
        ] {
            assert_eq!(by(POD, Config::default(), key, value).unwrap(), one(key, value).unwrap());
        }
        for (key, value, expected) in [
            ("krun.cpus", "3", "a VM of 3 cpus in a pod: at most 2, "),
            ("io.containerd.krun.memory_mib", "1025", "a VM of 1025 MiB in a pod: at most 1024, "),
            (
                "io.containerd.krun.rootfs_size_mib",
                "10241",
                "rootfs_size_mib = 10241 in a pod: at most 10240, ",
            ),
            (
                "io.containerd.krun.rootfs",
                "virtiofs",
                "\"virtiofs\" in a pod: not allowed by enable_annotations; ",
            ),
        ] {
            let error = by(POD, Config::default(), key, value).unwrap_err().to_string();
            assert!(error.starts_with(&format!("annotation {key}: {expected}")), "{error}");
        }
    }

    #[test]
    fn a_pod_makes_room_for_updates_only_where_that_is_listed() {
        let listed = ["max_cpus", "max_memory_mib"].map(str::to_owned).to_vec();
        let listed = Config { enable_annotations: Some(listed), ..Config::default() };
        for (name, fits, too_much) in [("max_cpus", "2", "3"), ("max_memory_mib", "896", "897")] {
            let key = format!("{PREFIX}{name}");
            let error = by(POD, Config::default(), &key, fits).unwrap_err().to_string();
            assert!(error.contains("pods may set: cpus, memory_mib, network, rootfs_size_mib"), "{error}");
            assert!(by(POD, listed.clone(), &key, fits).is_ok());
            let error = by(POD, listed.clone(), &key, too_much).unwrap_err().to_string();
            assert!(error.contains("a VM of") && error.contains("at most"), "{error}");
        }
    }

    #[test]
    fn a_pod_runs_virtual_machines_only_where_that_is_listed() {
        let listed = Config { enable_annotations: Some(vec!["nested_virt".to_owned()]), ..Config::default() };
        let key = "io.containerd.krun.nested_virt";
        let error = by(POD, Config::default(), key, "true").unwrap_err().to_string();
        assert!(error.contains("in a pod: not allowed by enable_annotations"), "{error}");
        assert!(by(POD, listed, key, "true").unwrap().nested_virt);
        assert!(one(key, "yes").unwrap_err().to_string().contains("must be true or false"));
    }

    #[test]
    fn a_pod_never_opens_ports_of_its_host() {
        let listed = Config { enable_annotations: Some(vec!["ports".to_owned()]), ..Config::default() };
        for config in [Config::default(), listed] {
            let error = by(POD, config, "io.containerd.krun.ports", "2222:80").unwrap_err().to_string();
            assert!(
                error.starts_with("annotation io.containerd.krun.ports: \"2222:80\" in a pod: no pod"),
                "{error}"
            );
        }
    }

    #[test]
    fn no_annotation_names_a_path_or_an_allowance() {
        for name in [
            "kernel",
            "libkrunfw",
            "guest_init",
            "vmm",
            "debug_console",
            "operator_root",
            "enable_annotations",
            "pod_max_cpus",
            "pod_max_memory_mib",
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_long_value_is_cut_in_errors() {
        let error = by(POD, Config::default(), "io.containerd.krun.ports", &"é".repeat(9999)).unwrap_err();
        assert!(error.to_string().len() < 400, "{error}");
    }
}
