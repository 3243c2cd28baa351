//! The files that a VM is made of.

use std::path::PathBuf;

use vm_launcher::{Kernel, VmConfig, find, probe};

use crate::{
    config::Config,
    error::{Error, Result},
    files::{share::Share, state_dir::StateDir},
};

/// The files that a VM is made of.
pub struct Parts {
    /// A kernel in libkrunfw's place.
    pub kernel: Option<Kernel>,
    /// Empty where there is a kernel in its place.
    pub libkrunfw: PathBuf,
    pub guest_init: PathBuf,
    pub vmm: PathBuf,
}

impl Parts {
    /// Those of a configuration, on a host that can run VMs.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` that says what is missing.
    pub fn find(config: &Config) -> Result<Parts> {
        probe::device().map_err(|e| Error::precondition(chain(e)))?;
        let missing = |e: find::NotFound| Error::precondition(chain(e));
        let kernel = config.kernel.as_deref().map(Kernel::open).transpose();
        let kernel = kernel.map_err(|e| Error::precondition(chain(e)))?;
        let libkrunfw = match &kernel {
            Some(_) => PathBuf::new(),
            None => find::libkrunfw(config.libkrunfw.as_deref()).map_err(missing)?,
        };
        if config.nested_virt {
            probe::nested().map_err(|e| Error::precondition(chain(e)))?;
        }
        let guest_init = find::guest_init(config.guest_init.as_deref()).map_err(missing)?;
        let vmm = config.vmm.clone().map_or_else(find::krun_vmm, Ok).map_err(missing)?;
        Ok(Parts { kernel, libkrunfw, guest_init, vmm })
    }

    /// A VM of them, as `config` wants it, with no network and no disks.
    pub fn vm(&self, config: &Config, share: &Share, state: &StateDir) -> VmConfig {
        VmConfig {
            cpus: config.cpus,
            memory_mib: config.memory_mib,
            kernel: self.kernel.clone(),
            nested_virt: config.nested_virt,
            mount_namespace: Some(share.namespace().path()),
            debug: log::max_level() >= log::LevelFilter::Debug,
            ..VmConfig::new(share.path(), state.sockets(), &self.libkrunfw, &self.guest_init)
        }
    }
}

/// An error with all that caused it, in one line.
pub fn chain(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
