//! The flags that describe a VM.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use nix::unistd::Uid;
use shim::direct::{Author, RuntimeOptions};
use vm_launcher::{
    Kernel,
    config::{DEFAULT_CPUS, DEFAULT_RUN_MEMORY_MIB, MAX_CPUS, MIN_MEMORY_MIB, host_memory_mib},
    find, probe,
};

use crate::{
    logger,
    network::{self, Plan},
};

/// The flags that describe a VM.
#[derive(Args)]
// Its group would have the name of that of the command it is part of.
#[group(skip)]
pub struct Arguments {
    /// vCPUs, 1 to 16
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CPUS, value_parser = cpus)]
    pub cpus: u8,
    /// Memory of the VM in MiB, at least 128, or with a unit, as 512m or 2g
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_RUN_MEMORY_MIB, value_parser = memory)]
    pub memory: u32,
    #[command(flatten)]
    pub network: network::Arguments,
    /// Log what the vmm and the guest do, and write the guest kernel's console to stderr
    #[arg(long)]
    pub debug_console: bool,
    /// The library that holds the guest's kernel, if it is not in a usual place
    #[arg(long, value_name = "FILE")]
    libkrunfw: Option<PathBuf>,
    /// A kernel in libkrunfw's place: a library like it, a vmlinux or a bzImage
    #[arg(long, value_name = "FILE", conflicts_with = "libkrunfw")]
    kernel: Option<PathBuf>,
    /// Let the VM run virtual machines, where this host's KVM can
    #[arg(long)]
    nested_virt: bool,
    /// The guest's PID 1, if it is not in a usual place
    #[arg(long, value_name = "FILE")]
    guest_init: Option<PathBuf>,
}

fn cpus(text: &str) -> Result<u8, String> {
    let allowed = |cpus: &u8| (1..=MAX_CPUS).contains(cpus);
    text.parse().ok().filter(allowed).ok_or_else(|| format!("it must be a whole number, 1 to {MAX_CPUS}"))
}

fn memory(text: &str) -> Result<u32, String> {
    let host = host_memory_mib().ok().and_then(|mib| u32::try_from(mib).ok()).unwrap_or(u32::MAX);
    let allowed = |mib: &u32| (MIN_MEMORY_MIB..=host).contains(mib);
    let range = || {
        format!(
            "it must be a whole number of MiB, {MIN_MEMORY_MIB} to {host} (this host's memory), or have a unit, as 512m or 2g"
        )
    };
    // The units are nerdctl's, but a bare number is MiB here and bytes there: so many MiB no host has, and they are refused.
    let (number, unit) = match text.strip_suffix(['g', 'G']) {
        Some(number) => (number, 1024),
        None => (text.strip_suffix(['m', 'M']).unwrap_or(text), 1),
    };
    let mib = number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    mib.filter(allowed).ok_or_else(range)
}

impl Arguments {
    /// Whether this host seems able to run a VM, before anything is made.
    pub fn check(&self) -> Result<()> {
        logger::set(self.debug_console);
        check_host()?;
        match &self.kernel {
            Some(kernel) => drop(Kernel::open(&std::path::absolute(kernel)?)?),
            None => drop(find::libkrunfw(self.libkrunfw.as_deref())?),
        }
        if self.nested_virt {
            probe::nested()?;
        }
        find::guest_init(self.guest_init.as_deref())?;
        Ok(())
    }

    /// The configuration of the sandbox; `console` is a directory for the console's output.
    pub fn options(&self, network: &Plan, console: &Path) -> Result<RuntimeOptions> {
        let network = network.mode();
        let mut text = format!(
            "default_cpus = {}\ndefault_memory_mib = {}\nmax_cpus = {0}\nnetwork = \"{network}\"\nnested_virt = {}\n",
            self.cpus, self.memory, self.nested_virt
        );
        let paths = [
            ("libkrunfw", self.libkrunfw.as_deref()),
            ("kernel", self.kernel.as_deref()),
            ("guest_init", self.guest_init.as_deref()),
            ("debug_console", self.debug_console.then_some(console)),
        ];
        for (key, path) in paths {
            if let Some(path) = path {
                // A string of JSON is one of TOML.
                let path = serde_json::to_string(&std::path::absolute(path)?)?;
                text.push_str(&format!("{key} = {path}\n"));
            }
        }
        Ok(RuntimeOptions { config_body: Some(text), author: Author::Krunctl, ..RuntimeOptions::default() })
    }
}

/// Whether this process may make a VM.
///
/// # Errors
/// When it is not root's.
pub fn check_root() -> Result<()> {
    ensure!(Uid::effective().is_root(), "not root: mounting and making namespaces needs it; use sudo");
    Ok(())
}

/// Whether this host seems able to run a VM.
///
/// # Errors
/// When not, with what to do.
pub fn check_host() -> Result<()> {
    check_root()?;
    probe::device()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_in_mib_or_has_a_unit() {
        for (text, mib) in [("256", 256), ("256m", 256), ("256M", 256)] {
            assert_eq!(memory(text), Ok(mib), "{text}");
        }
        if host_memory_mib().unwrap() >= 1024 {
            assert_eq!(memory("1g"), Ok(1024));
        }
        for text in ["", "m", "g", "-1", "127", "0g", "1t", "1.5g", "4194304g", "256mb"] {
            assert!(memory(text).unwrap_err().contains("128 to"), "{text}");
        }
    }
}
