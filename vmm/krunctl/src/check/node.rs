//! What containers and pods of containerd's need of a host, beyond what a VM needs.

use std::{
    env, fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statvfs::statvfs;
use shim::pool;

use super::{Check, Finding, good};

/// The oldest containerd that works.
const OLDEST_CONTAINERD: (u32, u32) = (1, 6);

/// The shim's program, as containerd looks for it.
const SHIM: &str = "containerd-shim-krun-v2";

/// Where containerd's unit looks for it. Source: systemd.exec(5), the default of PATH.
const UNIT_PATH: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// Where CNI's plugins and their configuration are. Source: containerd's `docs/cri/config.md`; Debian's package has the second.
const CNI_PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
const CNI_CONFIGURATION: &str = "/etc/cni/net.d";

/// What of KVM's says whether guests may run VMs.
const NESTED: [&str; 2] =
    ["/sys/module/kvm_intel/parameters/nested", "/sys/module/kvm_amd/parameters/nested"];

/// Threads that a sandbox with one CPU and one container has on the host, about: the vmm's, the shim's, KVM's.
const THREADS: u64 = 40;

/// Sandboxes that a node should have room for. Source: the kubelet's default of 110 pods.
const SANDBOXES: u64 = 110;

/// What the directories of containerd and of sandboxes should have free, in MiB.
const ROOM: [(&str, u64); 2] = [("/var/lib/containerd", 1024), ("/run", 64)];

/// All of them.
pub fn checks() -> Vec<Check<'static>> {
    vec![
        ("containerd", Box::new(|| containerd("containerd"))),
        ("shim", Box::new(|| shim(&search_path()))),
        ("CRI", Box::new(|| cri("containerd"))),
        ("CNI", Box::new(|| cni(&CNI_PLUGINS, CNI_CONFIGURATION))),
        ("features", Box::new(features)),
        ("nested VMs", Box::new(nested)),
        ("limits", Box::new(limits)),
        ("room", Box::new(room)),
        ("pool", Box::new(pool_runs)),
    ]
}

fn warning(text: impl Into<String>) -> Result<Finding> {
    Ok(Finding::Warning(text.into()))
}

fn containerd(program: &str) -> Result<Finding> {
    let Ok(said) = Command::new(program).arg("--version").output() else {
        return warning(
            "no containerd in PATH: install it, unless this host has one of its own (k3s, RKE2, k0s, MicroK8s) or runs krunctl alone",
        );
    };
    let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    let version = parse_containerd(&text).with_context(|| format!("which version is this: {text:?}"))?;
    let (major, minor) = OLDEST_CONTAINERD;
    ensure!(version >= OLDEST_CONTAINERD, "{text} is too old: {major}.{minor} or later is needed");
    good(format!("{}.{}", version.0, version.1))
}

/// As in `containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7…`, with or without the letter.
fn parse_containerd(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.trim_start_matches('v').split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })
}

fn search_path() -> Vec<PathBuf> {
    let own = env::var_os("PATH").unwrap_or_default();
    UNIT_PATH.iter().map(PathBuf::from).chain(env::split_paths(&own)).collect()
}

fn shim(directories: &[PathBuf]) -> Result<Finding> {
    let found = directories.iter().map(|directory| directory.join(SHIM)).find(|path| path.is_file());
    match found {
        Some(path) => good(path.display().to_string()),
        None => bail!("no {SHIM} where containerd looks for it: install it in /usr/local/bin"),
    }
}

/// Whether pods can have the runtime. Containers of ctr, nerdctl and Docker need no configuration.
fn cri(program: &str) -> Result<Finding> {
    let dumped = Command::new(program).args(["config", "dump"]).output();
    let text = match dumped {
        Ok(said) if said.status.success() => String::from_utf8_lossy(&said.stdout).into_owned(),
        _ => return warning("`containerd config dump` fails: whether pods have a runtime krun is not known"),
    };
    if names_krun(&text) {
        return good("pods have a runtime krun");
    }
    warning(
        "no runtime krun for pods: add the lines of /usr/share/containerd-shim-krun/containerd (deploy/containerd) to containerd's configuration. ctr, nerdctl and Docker need none",
    )
}

fn names_krun(configuration: &str) -> bool {
    let tables = configuration.lines().map(str::trim).filter(|line| line.starts_with('['));
    tables.into_iter().any(|line| {
        let name = line.trim_end_matches(']').rsplit('.').next().unwrap_or_default();
        line.contains("runtimes") && name.trim_matches(['"', '\'']) == "krun"
    })
}

fn cni(plugins: &[&str], configuration: &str) -> Result<Finding> {
    let has_any = |directory: &str| fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
    let Some(directory) = plugins.iter().find(|directory| has_any(directory)) else {
        return warning(format!(
            "no plugins in {}: pods, nerdctl and `ctr run --cni` need them; install containernetworking-plugins",
            plugins.join(" or ")
        ));
    };
    if !has_any(configuration) {
        return warning(format!(
            "plugins in {directory}, no network in {configuration}: pods wait for one; nerdctl makes its own"
        ));
    }
    good(format!("plugins in {directory}, a network in {configuration}"))
}

fn features() -> Result<Finding> {
    let filesystems = fs::read_to_string("/proc/filesystems").context("/proc/filesystems")?;
    let mut missing = Vec::new();
    if !filesystems.split_whitespace().any(|name| name == "overlay") {
        missing.push("no overlayfs, which snapshots and `krunctl --image` need: modprobe overlay");
    }
    if !Path::new("/dev/net/tun").exists() {
        missing.push("no /dev/net/tun, which network = \"tap\" needs: modprobe tun");
    }
    if missing.is_empty() { good("overlayfs, tun") } else { warning(missing.join("; ")) }
}

fn nested() -> Result<Finding> {
    let values = NESTED.iter().filter_map(|file| fs::read_to_string(file).ok());
    match values.into_iter().any(|value| matches!(value.trim(), "1" | "Y")) {
        true => good("possible, where nested_virt allows them"),
        false => good("not possible: the parameter nested of kvm_intel or kvm_amd is off"),
    }
}

fn limits() -> Result<Finding> {
    let read = |name: &str| -> Result<u64> {
        let text = fs::read_to_string(Path::new("/proc/sys").join(name)).with_context(|| name.to_owned())?;
        text.trim().parse().with_context(|| format!("{name} is {text:?}"))
    };
    let threads = read("kernel/pid_max")?.min(read("kernel/threads-max")?);
    let mut small = Vec::new();
    if threads / THREADS < SANDBOXES {
        small.push(format!(
            "{threads} threads are enough for {} sandboxes: raise kernel.pid_max and kernel.threads-max",
            threads / THREADS
        ));
    }
    match read("fs/fanotify/max_user_groups") {
        Ok(groups) if groups < 2 * SANDBOXES => small.push(format!(
            "the volumes of {groups} sandboxes can be watched: raise fs.fanotify.max_user_groups, to 8192 say"
        )),
        _ => {}
    }
    if small.is_empty() {
        good(format!("{} sandboxes", threads / THREADS))
    } else {
        warning(small.join("; "))
    }
}

fn room() -> Result<Finding> {
    let mut little = Vec::new();
    for (directory, least) in ROOM {
        // Without the directory there is nothing in it yet.
        let Ok(found) = statvfs(directory) else { continue };
        let free = (found.blocks_available() * found.fragment_size()) >> 20;
        if free < least {
            little.push(format!("{free} MiB are free in {directory}: it should be {least}"));
        }
    }
    if little.is_empty() { good("enough") } else { warning(little.join("; ")) }
}

fn pool_runs() -> Result<Finding> {
    if UnixStream::connect(pool::SOCKET).is_err() {
        return good("none runs; `systemctl enable --now krun-pool` starts containers sooner");
    }
    good(format!("runs, {} VMs wait", pool::waiting().context("looking for VMs that wait")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_warning(found: Result<Finding>, word: &str) -> bool {
        matches!(found.unwrap(), Finding::Warning(text) if text.contains(word))
    }

    #[test]
    fn a_version_of_containerd_is_found_in_what_it_says() {
        let said = "containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7";
        assert_eq!(parse_containerd(said), Some((2, 1)));
        assert_eq!(
            parse_containerd("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20"),
            Some((1, 6))
        );
        assert_eq!(parse_containerd("containerd"), None);
        assert!(is_warning(containerd("/no/such/containerd"), "install it"));
        assert!(is_warning(cri("/no/such/containerd"), "not known"));
    }

    #[test]
    fn a_runtime_is_found_in_a_configuration_of_any_version() {
        for line in [
            "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.krun]",
            "  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.\"krun\"]",
        ] {
            assert!(names_krun(&format!("version = 3\n{line}\n")), "{line}");
        }
        for line in ["# runtimes.krun", "[plugins.x.runtimes.krunner]", "[plugins.x.runtimes.krun.options]"] {
            assert!(!names_krun(line), "{line}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display().to_string();
        assert!(is_warning(cni(&[&path], "/none"), "install containernetworking-plugins"));
        fs::write(directory.path().join("bridge"), "").unwrap();
        assert!(is_warning(cni(&[&path], "/none"), "no network in /none"));
        assert!(matches!(cni(&[&path], &path).unwrap(), Finding::Good(_)));
        let error = shim(&[directory.path().to_owned()]).err().unwrap().to_string();
        assert!(error.contains(SHIM) && error.contains("/usr/local/bin"), "{error}");
    }
}
