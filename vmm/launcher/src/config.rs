//! The description of a VM, and the check that it is valid. This module only reads from the host.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    disk::{self, Disk},
    kernel::Kernel,
    probe::{self, NoNested},
};

/// Maximum number of vCPUs of a VM: libkrun 1.19 has IRQs and APIC ids for this many.
pub const MAX_CPUS: u8 = 16;

/// Minimum memory of a VM in MiB: with less, the kernel's own image does not fit and the kernel panics.
pub const MIN_MEMORY_MIB: u32 = 128;

/// Number of vCPUs where nobody asked for another.
pub const DEFAULT_CPUS: u8 = 1;

/// Memory in MiB of a VM of containerd's, where nobody asked for another size.
pub const DEFAULT_MEMORY_MIB: u32 = 1024;

/// Memory in MiB of a VM of `krunctl run`, where nobody asked for another size: it runs one command.
pub const DEFAULT_RUN_MEMORY_MIB: u32 = 512;

/// Name of the socket in [`VmConfig::socket_dir`] that the guest connects to.
pub const SOCKET_NAME: &str = "guest.sock";

/// Maximum length of a unix socket's path: `sun_path` of unix(7) without its final zero byte.
pub const MAX_SOCKET_PATH: usize = 107;

/// Maximum length of an AppArmor profile's name: a page, in which the kernel takes it, without the command before it.
pub const MAX_APPARMOR_PROFILE: usize = 4096 - "changeprofile ".len();

/// Maximum number of NICs and disks of a VM: libkrun 1.19 has interrupts for eleven devices; balloon, rng, console, root and
/// vsock take five.
pub const MAX_DEVICES: usize = 6;

/// Maximum length of an interface's name: `IFNAMSIZ` of net/if.h without its final zero byte.
const MAX_INTERFACE_NAME: usize = 15;

/// How the guest reaches the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The vmm opens a socket in its network namespace for each IP socket of the guest.
    Tsi,
    /// The guest has one NIC per tap: 1 to [`MAX_DEVICES`], less one for each disk.
    Tap(Vec<Tap>),
    /// The guest has only a loopback interface.
    None,
}

/// A persistent tap in the vmm's network namespace that belongs to uid 0, the vmm's effective user, and is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// The name of the interface.
    pub name: String,
    /// The MAC address of the guest's NIC.
    pub mac: [u8; 6],
}

/// Everything that a vmm needs. [`VmConfig::new`] sets the defaults; a caller then sets fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// vCPUs: 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// Guest memory in MiB: [`MIN_MEMORY_MIB`] to the host's memory.
    pub memory_mib: u32,
    /// Directory that becomes the guest's root: a shared mount with the directories of
    /// [`MOUNT_POINTS`](guest_protocol::boot::MOUNT_POINTS), and those that containers have in it
    /// ([`rootfs_path`](guest_protocol::boot::rootfs_path), [`volume_path`](guest_protocol::boot::volume_path)). The guest can
    /// only read the top directory. Mounts that the caller makes below it, before or
    /// after boot, appear in the guest with their own flags. Make them nodev and nosuid: that restricts the vmm, not
    /// the guest.
    pub share: PathBuf,
    /// Mount namespace that contains `share` and the other files, such as `/proc/<pid>/ns/mnt`; `None` is the caller's.
    /// The vmm gets a copy of it.
    pub mount_namespace: Option<PathBuf>,
    /// Directory of the cgroup (version 2) that the vmm starts in; `None` is the caller's.
    pub cgroup: Option<PathBuf>,
    /// Empty directory for this VM only. The launcher makes the socket that the guest connects to in it, [`SOCKET_NAME`], whose
    /// path may have [`MAX_SOCKET_PATH`] bytes.
    pub socket_dir: PathBuf,
    /// Network namespace of the vmm, such as `/proc/<pid>/ns/net`; `None` is a new one with only `lo`, which is up.
    pub netns: Option<PathBuf>,
    /// How the guest reaches the network.
    pub network: Network,
    /// The library that contains the guest's kernel: see [`crate::find::libkrunfw`].
    pub libkrunfw: PathBuf,
    /// A kernel in the place of `libkrunfw`, which is not used then. It is passed as a descriptor, and is no part of what is serialized.
    #[serde(skip)]
    pub kernel: Option<Kernel>,
    /// Its disks, at most [`MAX_DEVICES`]. They are passed as descriptors, and are no part of what is serialized.
    #[serde(skip)]
    pub disks: Vec<Disk>,
    /// Offer the host's CPU extensions for virtual machines to the guest: see [`crate::probe::nested`].
    pub nested_virt: bool,
    /// The static executable that becomes PID 1: see [`crate::find::guest_init`].
    pub guest_init: PathBuf,
    /// The AppArmor profile of the vmm, at most [`MAX_APPARMOR_PROFILE`] bytes; `None` leaves it under the caller's, which mostly is
    /// none. The host's kernel must have loaded it.
    pub apparmor_profile: Option<String>,
    /// Log at debug level, in the vmm and in the guest.
    pub debug: bool,
    /// Whether another process may get the VM ([`crate::Waiting`]): the kernel then does not kill the vmm when the thread ends that
    /// launched it. It ends with the last process that holds its life pipe; while it is stopped (SIGSTOP), it stays. From the boot on
    /// it gets the CPU only while no other process wants it (`SCHED_IDLE`), until it is taken.
    pub given_away: bool,
    /// File that gets the output of the kernel's console, appended, and at most 16 MiB of it; `None` is a VM without a console.
    pub debug_console: Option<PathBuf>,
}

/// What is wrong with a [`VmConfig`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A number is out of range.
    #[error("{name} = {value}: must be {min} to {max}{why}")]
    Range {
        /// The setting.
        name: &'static str,
        /// The value.
        value: u64,
        /// The minimum.
        min: u64,
        /// The maximum.
        max: u64,
        /// The source of the limit, in parentheses, or an empty string.
        why: &'static str,
    },
    /// A path cannot be used.
    #[error("{name} = {}: {problem}", path.display())]
    Path {
        /// The setting.
        name: &'static str,
        /// The value.
        path: PathBuf,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// A VM cannot have as many NICs as there are taps, beside its disks.
    #[error("network = tap: {0} interfaces: must be 1 to {1}")]
    Taps(usize, usize),
    /// A VM cannot have as many disks.
    #[error("disks: {0}: at most {MAX_DEVICES} are allowed")]
    Disks(usize),
    /// No disk can have this name.
    #[error("disks: {0:?}: a name has 1 to {max} of A-Z a-z 0-9 - and _", max = disk::MAX_NAME)]
    DiskName(String),
    /// No interface can have the name of this tap.
    #[error("network = tap: interface {0:?}: a name has 1 to {MAX_INTERFACE_NAME} bytes")]
    TapName(String),
    /// The host's memory is unknown.
    #[error("reading the host's memory from /proc/meminfo")]
    HostMemory(#[source] io::Error),
    /// The host's KVM does not pass them on.
    #[error(transparent)]
    NoNested(#[from] NoNested),
}

/// What is wrong with a path of a [`VmConfig`].
#[derive(Debug, thiserror::Error)]
pub enum PathProblem {
    /// It is relative.
    #[error("must be an absolute path")]
    Relative,
    /// It leads to no file, or to one that cannot be looked at.
    #[error("{0}")]
    Unreachable(io::Error),
    /// It leads to something other than a directory.
    #[error("must be a directory")]
    NoDirectory,
    /// It leads to something other than a regular file.
    #[error("must be a file")]
    NoFile,
    /// The path of the socket in it has this many bytes.
    #[error(
        "the socket in it, {SOCKET_NAME}, has a path of {0} bytes; at most {MAX_SOCKET_PATH} are allowed"
    )]
    Long(usize),
}

impl VmConfig {
    /// A VM with [`DEFAULT_CPUS`] vCPUs, [`DEFAULT_MEMORY_MIB`], no network and no debugging, in the caller's mount
    /// namespace and cgroup. The paths are the fields of the same names.
    pub fn new(
        share: impl Into<PathBuf>,
        socket_dir: impl Into<PathBuf>,
        libkrunfw: impl Into<PathBuf>,
        guest_init: impl Into<PathBuf>,
    ) -> Self {
        VmConfig {
            cpus: DEFAULT_CPUS,
            memory_mib: DEFAULT_MEMORY_MIB,
            share: share.into(),
            mount_namespace: None,
            cgroup: None,
            socket_dir: socket_dir.into(),
            netns: None,
            network: Network::None,
            libkrunfw: libkrunfw.into(),
            kernel: None,
            disks: Vec::new(),
            nested_virt: false,
            guest_init: guest_init.into(),
            apparmor_profile: None,
            debug: false,
            given_away: false,
            debug_console: None,
        }
    }

    /// Checks everything that can be checked before the launch, which does so first of all.
    ///
    /// # Errors
    /// The first problem; the message names the setting and says what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let host_memory = host_memory_mib().map_err(ConfigError::HostMemory)?;
        range("cpus", self.cpus.into(), 1, MAX_CPUS.into(), "")?;
        range(
            "memory_mib",
            self.memory_mib.into(),
            MIN_MEMORY_MIB.into(),
            host_memory,
            " (this host's memory)",
        )?;
        if let Network::Tap(taps) = &self.network {
            check_taps(taps, MAX_DEVICES.saturating_sub(self.disks.len()))?;
        }
        check_disks(&self.disks)?;
        path("share", &self.share, Kind::Directory)?;
        path("socket_dir", &self.socket_dir, Kind::Directory)?;
        if self.kernel.is_none() {
            path("libkrunfw", &self.libkrunfw, Kind::File)?;
        }
        if self.nested_virt {
            probe::nested()?;
        }
        path("guest_init", &self.guest_init, Kind::File)?;
        let socket = self.socket();
        let length = socket.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            let problem = PathProblem::Long(length);
            return Err(ConfigError::Path { name: "socket_dir", path: self.socket_dir.clone(), problem });
        }
        Ok(())
    }

    /// The socket that the guest connects to.
    pub fn socket(&self) -> PathBuf {
        self.socket_dir.join(SOCKET_NAME)
    }
}

/// This host's memory in MiB.
///
/// # Errors
/// When /proc/meminfo cannot be read or does not say.
pub fn host_memory_mib() -> io::Result<u64> {
    parse_memory(&fs::read_to_string("/proc/meminfo")?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no MemTotal in /proc/meminfo"))
}

fn parse_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024)
}

fn range(name: &'static str, value: u64, min: u64, max: u64, why: &'static str) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Range { name, value, min, max, why })
}

fn check_taps(taps: &[Tap], most: usize) -> Result<(), ConfigError> {
    if !(1..=most).contains(&taps.len()) {
        return Err(ConfigError::Taps(taps.len(), most));
    }
    match taps.iter().find(|tap| !(1..=MAX_INTERFACE_NAME).contains(&tap.name.len())) {
        Some(tap) => Err(ConfigError::TapName(tap.name.clone())),
        None => Ok(()),
    }
}

fn check_disks(disks: &[Disk]) -> Result<(), ConfigError> {
    if disks.len() > MAX_DEVICES {
        return Err(ConfigError::Disks(disks.len()));
    }
    match disks.iter().find(|disk| !disk.kind().has_name()) {
        Some(disk) => Err(ConfigError::DiskName(disk.kind().name.clone())),
        None => Ok(()),
    }
}

#[derive(PartialEq)]
enum Kind {
    Directory,
    File,
}

fn path(name: &'static str, path: &Path, kind: Kind) -> Result<(), ConfigError> {
    let problem = match fs::metadata(path) {
        _ if !path.is_absolute() => PathProblem::Relative,
        Err(error) => PathProblem::Unreachable(error),
        Ok(found) if kind == Kind::Directory && !found.is_dir() => PathProblem::NoDirectory,
        Ok(found) if kind == Kind::File && !found.is_file() => PathProblem::NoFile,
        Ok(_) => return Ok(()),
    };
    Err(ConfigError::Path { name, path: path.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> VmConfig {
        VmConfig { memory_mib: MIN_MEMORY_MIB, ..VmConfig::new("/", "/tmp", "/etc/passwd", "/etc/passwd") }
    }

    fn message(config: VmConfig) -> String {
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn a_valid_configuration_is_accepted_and_survives_json() {
        let config = valid();
        config.validate().unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<VmConfig>(&json).unwrap(), config);
    }

    #[test]
    fn numbers_out_of_range_name_the_range() {
        assert_eq!(message(VmConfig { cpus: 0, ..valid() }), "cpus = 0: must be 1 to 16");
        assert_eq!(message(VmConfig { cpus: 17, ..valid() }), "cpus = 17: must be 1 to 16");
        let host = host_memory_mib().unwrap();
        assert_eq!(
            message(VmConfig { memory_mib: 64, ..valid() }),
            format!("memory_mib = 64: must be 128 to {host} (this host's memory)")
        );
        assert!(VmConfig { memory_mib: host as u32 + 1, ..valid() }.validate().is_err());
    }

    #[test]
    fn too_many_taps_and_too_long_names_are_refused() {
        let taps = |count, name: &str| {
            let tap = Tap { name: name.to_owned(), mac: [2; 6] };
            VmConfig { network: Network::Tap(vec![tap; count]), ..valid() }
        };
        taps(6, "krun2").validate().unwrap();
        assert_eq!(message(taps(7, "krun2")), "network = tap: 7 interfaces: must be 1 to 6");
        assert!(message(taps(1, "krun567890123456")).contains("1 to 15 bytes"));
    }

    #[test]
    fn disks_have_names_and_take_the_places_of_nics() {
        let disk = |name: &str| {
            let file = fs::File::open("/dev/null").unwrap().into();
            Disk::new(file, disk::Kind { name: name.to_owned(), read_only: true, durable: false })
        };
        let of = |disks| VmConfig { disks, ..valid() };
        of(vec![disk("upper"); 6]).validate().unwrap();
        assert_eq!(message(of(vec![disk("upper"); 7])), "disks: 7: at most 6 are allowed");
        for name in ["", "a/b", "123456789012345678901"] {
            assert!(message(of(vec![disk(name)])).contains("1 to 20 of"), "{name}");
        }
        let tap = Tap { name: "krun2".to_owned(), mac: [2; 6] };
        let network = Network::Tap(vec![tap; 6]);
        assert_eq!(
            message(VmConfig { network, ..of(vec![disk("upper")]) }),
            "network = tap: 6 interfaces: must be 1 to 5"
        );
    }

    #[test]
    fn paths_that_cannot_be_used_are_named() {
        assert_eq!(
            message(VmConfig { share: "/etc/passwd".into(), ..valid() }),
            "share = /etc/passwd: must be a directory"
        );
        assert_eq!(
            message(VmConfig { guest_init: "/none".into(), ..valid() }),
            "guest_init = /none: No such file or directory (os error 2)"
        );
        assert_eq!(
            message(VmConfig { libkrunfw: "lib".into(), ..valid() }),
            "libkrunfw = lib: must be an absolute path"
        );
    }

    #[test]
    fn a_socket_path_that_does_not_fit_is_refused() {
        let dir = std::env::temp_dir().join("d".repeat(100));
        fs::create_dir_all(&dir).unwrap();
        let error = message(VmConfig { socket_dir: dir.clone(), ..valid() });
        fs::remove_dir(&dir).unwrap();
        assert!(error.contains("at most 107 are allowed"), "{error}");
    }

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(parse_memory("MemTotal:        2048 kB\nMemFree: 1 kB\n"), Some(2));
        assert_eq!(parse_memory("MemFree: 1 kB\n"), None);
    }
}
