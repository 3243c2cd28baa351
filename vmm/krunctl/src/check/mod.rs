//! `krunctl check`: says whether this host can run VMs. It prints one line per requirement, with advice if the host does
//! not meet it. It changes nothing.

mod node;

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::{
    sys::statfs::{CGROUP2_SUPER_MAGIC, statfs},
    sys::utsname::uname,
};
use serde_json::{Value, json};
use vm_launcher::{
    Kernel,
    config::{MIN_MEMORY_MIB, host_memory_mib},
    find,
    kernel::Format,
    parts::{self, Libkrunfw},
    probe,
};

use crate::{out, table, vm};

/// The oldest kernel that works: mount_setattr came with 5.12 (clone3 with 5.3, close_range's CLOSE_RANGE_CLOEXEC with
/// 5.11).
const OLDEST_KERNEL: (u32, u32) = (5, 12);

/// The kinds of namespaces of a vmm, by their names in /proc/self/ns.
const NAMESPACES: [&str; 5] = ["pid", "mnt", "ipc", "uts", "net"];

/// The flags of `check`.
#[derive(Args)]
pub struct Arguments {
    /// The library that holds the guest's kernel, if it is not in a usual place
    #[arg(long, value_name = "FILE")]
    libkrunfw: Option<PathBuf>,
    /// A kernel in libkrunfw's place: a library like it, a vmlinux or a bzImage
    #[arg(long, value_name = "FILE", conflicts_with = "libkrunfw")]
    kernel: Option<PathBuf>,
    /// The guest's PID 1, if it is not in a usual place
    #[arg(long, value_name = "FILE")]
    guest_init: Option<PathBuf>,
    /// Look also for what containers and pods of containerd's need
    #[arg(long)]
    node: bool,
    /// As a table, or as JSON
    #[arg(long, value_enum, default_value = "table")]
    format: table::Format,
}

/// How many user namespaces the host allows. Source: namespaces(7).
const MAX_USER_NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";

/// The result of one check.
enum Finding {
    Good(String),
    /// A VM runs, but something else does not work.
    Warning(String),
}

type Check<'a> = (&'static str, Box<dyn Fn() -> Result<Finding> + 'a>);

/// Exits with 0 if a VM would run.
pub fn main(arguments: &Arguments) -> ExitCode {
    let mut checks: Vec<Check<'_>> = vec![
        ("user", Box::new(user)),
        ("kernel", Box::new(kernel)),
        ("cgroups", Box::new(cgroups)),
        ("jail", Box::new(jail)),
        ("memory", Box::new(memory)),
        ("/dev/kvm", Box::new(device)),
        ("guests", Box::new(guests)),
        match &arguments.kernel {
            Some(kernel) => ("own kernel", Box::new(|| own_kernel(kernel))),
            None => ("libkrunfw", Box::new(|| libkrunfw(arguments.libkrunfw.as_deref()))),
        },
        ("guest-init", Box::new(|| guest_init(arguments.guest_init.as_deref()))),
        ("krun-vmm", Box::new(krun_vmm)),
        ("nft", Box::new(|| nft("nft"))),
    ];
    if arguments.node {
        checks.extend(node::checks());
    }
    let mut failed = 0;
    let mut all = Vec::new();
    for (name, check) in checks {
        let (result, text) = match check() {
            Ok(Finding::Good(text)) => ("ok", text),
            Ok(Finding::Warning(text)) => ("warning", text),
            Err(error) => {
                failed += 1;
                ("FAILED", format!("{error:#}"))
            }
        };
        match arguments.format {
            table::Format::Table => say(format!("{result:8} {name:11} {text}")),
            table::Format::Json => all.push(json!({"check": name, "result": result, "text": text})),
        }
    }
    if arguments.format == table::Format::Json {
        say(format!("{:#}", Value::Array(all)));
        return if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if failed == 0 {
        say("This host can run microVMs.");
        ExitCode::SUCCESS
    } else {
        say(format!("This host cannot run microVMs: {failed} of the above failed."));
        ExitCode::FAILURE
    }
}

/// Prints a line. One that cannot be written is ignored: the exit status says it as well.
fn say(text: impl Display) {
    let _ = out::line(text);
}

fn good(text: impl Into<String>) -> Result<Finding> {
    Ok(Finding::Good(text.into()))
}

fn user() -> Result<Finding> {
    vm::check_root()?;
    good("root")
}

fn kernel() -> Result<Finding> {
    let release = uname()?.release().to_string_lossy().into_owned();
    let version = parse_release(&release).with_context(|| format!("unknown kernel release {release}"))?;
    let (major, minor) = OLDEST_KERNEL;
    ensure!(version >= OLDEST_KERNEL, "{release} is too old: {major}.{minor} or later is needed");
    for namespace in NAMESPACES {
        let path = Path::new("/proc/self/ns").join(namespace);
        ensure!(path.exists(), "{release} has no {namespace} namespaces");
    }
    ensure!(Path::new("/proc/sys/kernel/seccomp").exists(), "{release} has no seccomp filters");
    good(release)
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn cgroups() -> Result<Finding> {
    match statfs("/sys/fs/cgroup") {
        Ok(found) if found.filesystem_type() == CGROUP2_SUPER_MAGIC => good("version 2"),
        _ => Ok(Finding::Warning(
            "no version 2 at /sys/fs/cgroup: containerd's limits on the VM as a whole will not hold; boot with systemd.unified_cgroup_hierarchy=1".to_owned(),
        )),
    }
}

/// What makes a jail stronger, and is not on every host.
fn jail() -> Result<Finding> {
    let user_namespaces = fs::read_to_string(MAX_USER_NAMESPACES).is_ok_and(|max| max.trim() != "0");
    let mut missing = Vec::new();
    if !user_namespaces {
        missing.push("no user namespaces (see sysctl user.max_user_namespaces)");
    }
    if !linux::landlock::available() {
        missing.push("no Landlock of version 2 (Linux 5.19, in the list of CONFIG_LSM or lsm=)");
    }
    if missing.is_empty() {
        return good("all parts");
    }
    Ok(Finding::Warning(format!("a VM's process is confined without some parts: {}", missing.join(", "))))
}

fn memory() -> Result<Finding> {
    let (total, available) = (host_memory_mib()?, available_mib()?);
    let least = u64::from(MIN_MEMORY_MIB);
    ensure!(available >= least, "{available} MiB of {total} MiB available: a VM needs {least} MiB");
    good(format!("{available} MiB of {total} MiB available"))
}

fn available_mib() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib =
        line.and_then(|line| line.trim().strip_suffix("kB")).context("no MemAvailable in /proc/meminfo")?;
    Ok(kib.trim().parse::<u64>()? / 1024)
}

fn device() -> Result<Finding> {
    probe::device()?;
    good("opens")
}

fn guests() -> Result<Finding> {
    let start = Instant::now();
    match probe::guest() {
        Ok(()) => good(format!("run (a few instructions took {} ms)", start.elapsed().as_millis())),
        // The check of /dev/kvm printed it.
        Err(probe::ProbeError::Missing | probe::ProbeError::Forbidden(_)) => bail!("not tried"),
        Err(error) => Err(error.into()),
    }
}

fn libkrunfw(configured: Option<&Path>) -> Result<Finding> {
    let path = std::path::absolute(find::libkrunfw(configured)?)?;
    let version = Libkrunfw::load(&path)?.kernel_version()?;
    good(format!("{} (kernel {version})", path.display()))
}

fn own_kernel(path: &Path) -> Result<Finding> {
    let path = std::path::absolute(path)?;
    let kernel = Kernel::open(&path)?;
    match kernel.format() {
        Format::Library => libkrunfw(Some(&path)),
        format => good(format!("{} ({format:?})", path.display())),
    }
}

fn guest_init(configured: Option<&Path>) -> Result<Finding> {
    let path = find::guest_init(configured)?;
    let program = parts::map_file(&path).with_context(|| format!("reading {}", path.display()))?;
    parts::check_static(program).with_context(|| format!("{} cannot be PID 1", path.display()))?;
    good(path.display().to_string())
}

fn krun_vmm() -> Result<Finding> {
    good(find::krun_vmm()?.display().to_string())
}

/// What makes networks of a VM's own.
fn nft(program: &str) -> Result<Finding> {
    match Command::new(program).arg("--version").output() {
        Ok(said) if said.status.success() => good(String::from_utf8_lossy(&said.stdout).trim()),
        _ => Ok(Finding::Warning(
            "`nft --version` fails: -p, --network tap, --allow-net, --allow-host and --deny-all need it; install nftables".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_nft_is_only_a_warning() {
        let found = nft("/no/such/nft").unwrap();
        assert!(matches!(found, Finding::Warning(text) if text.contains("install nftables")));
    }

    #[test]
    fn a_kernel_release_is_parsed() {
        assert_eq!(parse_release("6.1.0-50-cloud-amd64"), Some((6, 1)));
        assert_eq!(parse_release("5.12-rc1"), Some((5, 12)));
        assert_eq!(parse_release("linux"), None);
    }
}
