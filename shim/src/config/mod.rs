//! The shim's configuration, lowest to highest: built-in defaults, `/etc/krun/config.toml`,
//! `/etc/krun/config.d/*.toml` in order of name, the file or text of containerd's runtime
//! options, and those annotations that the files allow.
//!
//! An unknown key, a value out of range, or an annotation that is not allowed is an error that names it and says what
//! is allowed.
//!
//! A new key is a field of [`Layer`] and of [`Config`]; its default stands in `Config::default`, those of a VM's size in
//! `vm_launcher::config`.

pub mod annotations;
mod options;
#[cfg(test)]
mod packaged;
mod pool;
mod roots;
mod sizing;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use vm_launcher::config::{DEFAULT_CPUS, DEFAULT_MEMORY_MIB};

use annotations::Author;
pub use options::{Author as OptionsAuthor, RuntimeOptions};
pub use pool::{Kept, PoolTable};
pub use roots::Roots;
pub use sizing::{Limits, Size, host_memory_mib};

use crate::{
    error::{Error, Result},
    network,
};

/// The administrator's file.
const FILE: &str = "/etc/krun/config.toml";

/// The directory of its drop-ins.
const DROP_INS: &str = "/etc/krun/config.d";

/// What an idle guest keeps of files where nobody says otherwise, in MiB: the programs that it runs stay.
const IDLE_CACHE_MIB: u32 = 16;

/// How a sandbox's VM is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Virtual CPUs when nothing else sizes the VM: 1 to 16.
    pub cpus: u8,
    /// Memory in MiB when nothing else sizes the VM: 128 to the host's.
    pub memory_mib: u32,
    /// How far updates may raise limits on CPUs: the VM boots with as many. 0 leaves no room beyond its size.
    pub max_cpus: u8,
    /// How far updates may raise limits on memory, in MiB. 0 leaves no room beyond its size.
    pub max_memory_mib: u32,
    /// Whether an annotation set `cpus`: limits do not change it then.
    pub cpus_fixed: bool,
    /// Whether an annotation set `memory_mib`: limits do not change it then.
    pub memory_fixed: bool,
    /// How the guest reaches the network.
    pub network: network::Mode,
    /// Whether a guest's NICs send only from the addresses of the interfaces that they stand for.
    pub anti_spoofing: bool,
    /// Whether the guest is told what the host changes in volumes.
    pub watch_volumes: bool,
    /// How much of the files that it has read an idle guest keeps in memory, in MiB.
    pub idle_cache_mib: u32,
    /// Where containers' root file systems are.
    pub rootfs: Roots,
    /// MiB that a sandbox's containers may write to their root file systems, where these are on a disk.
    pub rootfs_size_mib: u32,
    /// Published ports.
    pub ports: Vec<network::ports::Port>,
    /// The path of libkrunfw; searched in the usual places when it is not set.
    pub libkrunfw: Option<PathBuf>,
    /// The path of a kernel in libkrunfw's place.
    pub kernel: Option<PathBuf>,
    /// Whether guests may run virtual machines.
    pub nested_virt: bool,
    /// The path of guest-init; searched likewise.
    pub guest_init: Option<PathBuf>,
    /// The path of krun-vmm; searched likewise.
    pub vmm: Option<PathBuf>,
    /// A directory for the output of the guest kernels' consoles, a file per sandbox.
    pub debug_console: Option<PathBuf>,
    /// A directory that is the root of an operator's processes in the VM; without, there are none.
    pub operator_root: Option<PathBuf>,
    /// How large an annotation may make a pod's VM; none allows what its limits and the rest of this give.
    pub pod_max_cpus: Option<u8>,
    /// As `pod_max_cpus`, in MiB.
    pub pod_max_memory_mib: Option<u32>,
    /// Annotations that may be used, by name without prefix; none allows those that are safe for their author.
    pub enable_annotations: Option<Vec<String>>,
    /// Which VMs `krunctl pool` keeps; none is its default.
    pub pool: Option<Vec<PoolTable>>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            cpus: DEFAULT_CPUS,
            memory_mib: DEFAULT_MEMORY_MIB,
            max_cpus: 0,
            max_memory_mib: 0,
            cpus_fixed: false,
            memory_fixed: false,
            network: network::Mode::Auto,
            anti_spoofing: true,
            watch_volumes: true,
            idle_cache_mib: IDLE_CACHE_MIB,
            rootfs: Roots::Auto,
            rootfs_size_mib: roots::DEFAULT_SIZE_MIB,
            ports: Vec::new(),
            libkrunfw: None,
            kernel: None,
            nested_virt: false,
            guest_init: None,
            vmm: None,
            debug_console: None,
            operator_root: None,
            pod_max_cpus: None,
            pod_max_memory_mib: None,
            enable_annotations: None,
            pool: None,
        }
    }
}

/// One configuration file: what it does not name stays as it was.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    default_cpus: Option<i64>,
    default_memory_mib: Option<i64>,
    max_cpus: Option<i64>,
    max_memory_mib: Option<i64>,
    network: Option<String>,
    anti_spoofing: Option<bool>,
    watch_volumes: Option<bool>,
    idle_cache_mib: Option<i64>,
    rootfs: Option<String>,
    rootfs_size_mib: Option<i64>,
    libkrunfw: Option<PathBuf>,
    kernel: Option<PathBuf>,
    nested_virt: Option<bool>,
    guest_init: Option<PathBuf>,
    vmm: Option<PathBuf>,
    debug_console: Option<PathBuf>,
    operator_root: Option<PathBuf>,
    pod_max_cpus: Option<i64>,
    pod_max_memory_mib: Option<i64>,
    enable_annotations: Option<Vec<String>>,
    pool: Option<Vec<pool::Layer>>,
}

/// Where a container comes from, which decides what its annotations may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client of containerd, which is root on the host.
    Host,
    /// Kubernetes: the container is its pod's sandbox, and has the VM made.
    Pod,
    /// Kubernetes: the container joins its pod's VM.
    PodMember,
}

impl Config {
    /// The administrator's configuration.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names the file, the key, and what is allowed.
    pub fn load(options: &RuntimeOptions) -> Result<Config> {
        let mut config = Config::default();
        let (files, whose) = match options.author {
            options::Author::Containerd => {
                (files(Path::new(FILE), Path::new(DROP_INS))?, "containerd's runtime options")
            }
            options::Author::Krunctl => (Vec::new(), "krunctl's flags"),
        };
        for file in files {
            config.read(&file)?;
        }
        if let Some(file) = &options.config_path {
            config.read(file)?;
        }
        if let Some(text) = &options.config_body {
            config.apply(text, whose)?;
        }
        Ok(config)
    }

    /// This configuration for a container with these annotations, whose VM has room for `limits`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names the annotation, its value, and what is allowed.
    pub fn of_container<'a>(
        mut self,
        annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
        origin: Origin,
        limits: Limits,
    ) -> Result<Config> {
        match origin {
            Origin::Host => annotations::apply(&mut self, annotations, Author::Host)?,
            Origin::Pod => {
                let most = self.most_of_pod(limits);
                annotations::apply(&mut self, annotations, Author::Pod(most))?;
            }
            // The CRI repeats the pod's annotations, which were checked against the pod's limits and have had their say.
            Origin::PodMember => {
                let any = Size { cpus: u8::MAX, memory_mib: u32::MAX };
                let mut pods = self.clone();
                annotations::apply(&mut pods, annotations, Author::Pod(any))?;
                // Which devices the guest's kernel has concerns every container.
                self.nested_virt = pods.nested_virt;
            }
        }
        self.size_for(limits);
        Ok(self)
    }

    #[expect(clippy::disallowed_methods, reason = "the administrator names it")]
    fn read(&mut self, file: &Path) -> Result<()> {
        let text = fs::read_to_string(file)
            .map_err(|e| Error::invalid(format!("read {}", file.display())).because(e))?;
        self.apply(&text, &file.display().to_string())
    }

    /// Applies a file's `text`, which came from `origin`.
    ///
    /// # Errors
    /// As [`Config::load`]'s.
    pub fn apply(&mut self, text: &str, origin: &str) -> Result<()> {
        let layer: Layer = toml::from_str(text)
            .map_err(|e| Error::invalid(format!("{origin}: {}", e.to_string().trim_end())))?;

        fn within<T>(origin: &str, result: Result<T>) -> Result<T> {
            result.map_err(|e| e.context(origin))
        }
        if let Some(cpus) = layer.default_cpus {
            within(origin, self.set_cpus("default_cpus", cpus))?;
        }
        if let Some(memory) = layer.default_memory_mib {
            within(origin, self.set_memory_mib("default_memory_mib", memory))?;
        }
        if let Some(cpus) = layer.max_cpus {
            within(origin, self.set_max_cpus(cpus))?;
        }
        if let Some(memory) = layer.max_memory_mib {
            within(origin, self.set_max_memory_mib(memory))?;
        }
        if let Some(network) = layer.network {
            within(origin, self.set_network(&network))?;
        }
        self.anti_spoofing = layer.anti_spoofing.unwrap_or(self.anti_spoofing);
        self.watch_volumes = layer.watch_volumes.unwrap_or(self.watch_volumes);
        if let Some(keep) = layer.idle_cache_mib {
            let keep = in_range("idle_cache_mib", keep, 0, u32::MAX.into(), "a number of 32 bits");
            self.idle_cache_mib = within(origin, keep)? as u32;
        }
        if let Some(rootfs) = layer.rootfs {
            within(origin, self.set_rootfs(&rootfs))?;
        }
        if let Some(size) = layer.rootfs_size_mib {
            within(origin, self.set_rootfs_size_mib(size))?;
        }
        self.libkrunfw = layer.libkrunfw.or(self.libkrunfw.take());
        self.kernel = layer.kernel.or(self.kernel.take());
        self.nested_virt = layer.nested_virt.unwrap_or(self.nested_virt);
        self.guest_init = layer.guest_init.or(self.guest_init.take());
        self.vmm = layer.vmm.or(self.vmm.take());
        self.debug_console = layer.debug_console.or(self.debug_console.take());
        self.operator_root = layer.operator_root.or(self.operator_root.take());
        if let Some(cpus) = layer.pod_max_cpus {
            self.pod_max_cpus = Some(within(origin, cpus_in_range("pod_max_cpus", cpus))?);
        }
        if let Some(memory) = layer.pod_max_memory_mib {
            self.pod_max_memory_mib = Some(within(origin, memory_in_range("pod_max_memory_mib", memory))?);
        }
        if let Some(names) = layer.enable_annotations {
            for name in &names {
                within(origin, annotations::check_name(name))?;
            }
            self.enable_annotations = Some(names);
        }
        if let Some(tables) = layer.pool {
            self.pool = Some(within(origin, pool::tables(tables))?);
        }
        Ok(())
    }

    fn set_cpus(&mut self, key: &str, cpus: i64) -> Result<()> {
        self.cpus = cpus_in_range(key, cpus)?;
        Ok(())
    }

    fn set_memory_mib(&mut self, key: &str, memory: i64) -> Result<()> {
        self.memory_mib = memory_in_range(key, memory)?;
        Ok(())
    }

    fn set_max_cpus(&mut self, cpus: i64) -> Result<()> {
        self.max_cpus = cpus_in_range("max_cpus", cpus)?;
        Ok(())
    }

    fn set_max_memory_mib(&mut self, memory: i64) -> Result<()> {
        self.max_memory_mib = memory_in_range("max_memory_mib", memory)?;
        Ok(())
    }

    fn set_rootfs(&mut self, rootfs: &str) -> Result<()> {
        self.rootfs = rootfs.parse()?;
        Ok(())
    }

    fn set_rootfs_size_mib(&mut self, size: i64) -> Result<()> {
        self.rootfs_size_mib = roots::size_in_range("rootfs_size_mib", size)?;
        Ok(())
    }

    fn set_network(&mut self, network: &str) -> Result<()> {
        self.network = network.parse()?;
        Ok(())
    }
}

fn cpus_in_range(key: &str, cpus: i64) -> Result<u8> {
    Ok(in_range(key, cpus, 1, i64::from(sizing::MAX_CPUS), "libkrun's limit")? as u8)
}

fn memory_in_range(key: &str, memory: i64) -> Result<u32> {
    let (least, host) = (i64::from(sizing::MIN_MEMORY_MIB), i64::from(host_memory_mib()));
    Ok(in_range(key, memory, least, host, "this host's memory")? as u32)
}

fn in_range(key: &str, value: i64, least: i64, most: i64, why: &str) -> Result<i64> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(Error::invalid(format!("{key} = {value}: must be {least} to {most} ({why})"))),
    }
}

/// The configuration files that exist, in their order.
#[expect(clippy::disallowed_methods, reason = "the administrator's directory")]
fn files(file: &Path, drop_ins: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    match fs::read_dir(drop_ins) {
        Ok(entries) => {
            found.extend(
                entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "toml")),
            );
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::invalid(format!("read {}", drop_ins.display())).because(e)),
    }
    found.sort();
    if file.exists() {
        found.insert(0, file.to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_changes_what_it_names() {
        let mut config = Config::default();
        config.apply("default_memory_mib = 512\nnetwork = \"none\"", "a.toml").unwrap();
        assert_eq!((config.cpus, config.memory_mib), (DEFAULT_CPUS, 512));
        assert_eq!(config.network, network::Mode::None);
    }

    #[test]
    fn errors_name_file_key_and_range() {
        let mut config = Config::default();
        let error = config.apply("default_cpus = 17", "/etc/krun/config.toml").unwrap_err().to_string();
        assert_eq!(error, "/etc/krun/config.toml: default_cpus = 17: must be 1 to 16 (libkrun's limit)");
        let error = config.apply("default_memory_mib = 64", "a").unwrap_err().to_string();
        assert!(error.starts_with("a: default_memory_mib = 64: must be 128 to "), "{error}");
        let error = config.apply("ram = 64", "a").unwrap_err().to_string();
        assert!(error.contains("unknown field `ram`") && error.contains("default_memory_mib"), "{error}");
    }

    /// The VM's size for a pod's annotation, in a pod with limits of 256 MiB and 2 CPUs.
    fn pods_size(file: &str, origin: Origin, key: &str, value: &str) -> Result<(u8, u32)> {
        let mut config = Config::default();
        config.apply(file, "a.toml").unwrap();
        let limits = Limits { cpu_quota: Some(200_000), cpu_period: Some(100_000), memory: Some(256 << 20) };
        let config = config.of_container([(&key.to_owned(), &value.to_owned())], origin, limits)?;
        Ok((config.cpus, config.memory_mib))
    }

    #[test]
    fn a_pod_may_have_what_its_limits_give_or_the_file_allows() {
        let derived = pods_size("", Origin::Pod, "else", "").unwrap();
        let (memory, more) = (derived.1.to_string(), (derived.1 + 1).to_string());
        let key = "io.containerd.krun.memory_mib";
        assert_eq!(pods_size("", Origin::Pod, key, &memory).unwrap(), derived);
        let error = pods_size("", Origin::Pod, key, &more).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(&format!("at most {memory}")), "{error}");
        let file = format!("pod_max_memory_mib = {more}");
        assert_eq!(pods_size(&file, Origin::Pod, key, &more).unwrap().1, derived.1 + 1);
        // A ceiling takes nothing from what the limits give.
        assert_eq!(pods_size("pod_max_memory_mib = 128", Origin::Pod, key, &memory).unwrap(), derived);
        assert!(pods_size("", Origin::Pod, "krun.cpus", "16").is_err());
        assert_eq!(pods_size("pod_max_cpus = 16", Origin::Pod, "krun.cpus", "16").unwrap().0, 16);
    }

    #[test]
    fn a_members_sizes_change_no_vm() {
        let derived = pods_size("", Origin::PodMember, "else", "").unwrap();
        for value in ["128", "1024"] {
            let size = pods_size("", Origin::PodMember, "io.containerd.krun.memory_mib", value).unwrap();
            assert_eq!(size, derived);
        }
        assert!(pods_size("", Origin::PodMember, "io.containerd.krun.ports", "1:1").is_err());
    }

    #[test]
    fn drop_ins_follow_the_file_in_order_of_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        for name in ["config.toml", "20.toml", "10.toml", "30.conf"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let drop_ins = dir.path();
        let names: Vec<_> = files(&file, drop_ins).unwrap();
        let names: Vec<_> = names.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["config.toml", "10.toml", "20.toml", "config.toml"]);
    }
}
