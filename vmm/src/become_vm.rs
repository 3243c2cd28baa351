//! `krun-vmm vm`: turns this process into a VM.
//!
//! The order of the steps matters: first those that need the host, then the jail, then libkrun. The parent learns of a
//! failure only through stderr and the exit status.

use std::{
    convert::Infallible,
    ffi::CStr,
    fs::File,
    io::{self, ErrorKind, Read},
    os::fd::{FromRawFd, OwnedFd, RawFd},
    path::Path,
    process::ExitCode,
    thread,
};

use anyhow::{Context, Result};
use guest_protocol::boot::BootConfig;
use vm_launcher::{
    Network, VmConfig,
    kernel::Format,
    order::{self, Order},
    parts,
};

use crate::{
    disks::{Disks, Opened},
    guest_memory, jail, krun,
};

/// A process that has its order and has done all that needs the host.
pub struct Prepared {
    order: Order,
    life: OwnedFd,
    console: Option<OwnedFd>,
    init: &'static [u8],
    /// A kernel that libkrun reads from its file; without, libkrunfw's or one like it was loaded.
    kernel: Option<BareKernel>,
    disks: Disks,
    /// Whether the network namespace is the host's.
    on_host: bool,
}

impl Prepared {
    /// The VM's configuration.
    pub fn config(&self) -> &VmConfig {
        &self.order.config
    }

    /// The program that becomes PID 1.
    pub fn init(&self) -> &'static [u8] {
        self.init
    }

    /// Closes the jail around this process, which must have one thread.
    ///
    /// # Errors
    /// The failing step's; the jail may be half closed, and the process must end.
    pub fn enter_jail(&self) -> Result<()> {
        jail::enter(self.config(), &self.files(), self.on_host).context("entering the jail")
    }

    /// As [`Prepared::enter_jail`], without its last part: for `hostile-vmm`, which has children that each add it.
    ///
    /// # Errors
    /// As [`Prepared::enter_jail`].
    pub fn enter_unfiltered_jail(&self) -> Result<()> {
        jail::enter_unfiltered(self.config(), &self.files(), self.on_host).context("entering the jail")
    }

    /// The files that libkrun opens once more.
    fn files(&self) -> Vec<Opened> {
        let path = BareKernel::PATH.to_string_lossy().into_owned();
        let kernel = self.kernel.as_ref().map(|_| Opened { path, is_written: false, is_device: false });
        kernel.into_iter().chain(self.disks.opened()).collect()
    }

    /// The last part of [`Prepared::enter_jail`].
    ///
    /// # Errors
    /// As [`Prepared::enter_jail`].
    pub fn filter(&self) -> Result<()> {
        jail::filter(self.config(), &self.files()).context("entering the jail")
    }

    /// In the jail, becomes the VM.
    ///
    /// # Errors
    /// Returns only if there is no VM: libkrun ends the process.
    pub fn run(self) -> Result<Infallible> {
        end_with_parent(self.life).context("starting the thread that watches for the parent's end")?;
        let boot = BootConfig { nonce: self.order.nonce, debug: self.order.config.debug };
        krun::run(
            &self.order.config,
            self.init,
            &boot,
            (self.kernel.as_ref(), self.disks.kinds()),
            self.console,
        )
    }
}

/// Returns only if there is no VM.
pub fn main() -> ExitCode {
    with(|prepared| {
        prepared.enter_jail()?;
        prepared.run()
    })
}

/// Takes the order, does all that needs the host, and leaves the rest to `go`.
pub fn with(go: impl FnOnce(Prepared) -> Result<Infallible>) -> ExitCode {
    let error = match prepare().and_then(go) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln!("krun-vmm: {error:#}");
    ExitCode::from(order::SETUP_FAILED as u8)
}

fn prepare() -> Result<Prepared> {
    // SAFETY: the parent put a pipe at this number; nothing else in this process uses it.
    let order = unsafe { inherited(order::ORDER_FD) };
    let order = read_order(File::from(order)).context("reading the order")?;
    let config = &order.config;
    // SAFETY: as above.
    let life = unsafe { inherited(order::LIFE_FD) };
    // SAFETY: as above; it is there when the configuration names a namespace.
    let netns = config.netns.as_ref().map(|_| unsafe { inherited(order::NETNS_FD) });
    // SAFETY: as above; it is there when the configuration names a console.
    let console = config.debug_console.as_ref().map(|_| unsafe { inherited(order::CONSOLE_FD) });

    let own_network = jail::network::enter(netns).context("entering the network namespace")?;
    if own_network && config.network == Network::Tsi {
        jail::network::open_all_ports()?;
    }
    let kernel = match &order.kernel {
        None => {
            load(&config.libkrunfw)?;
            None
        }
        Some(kernel) => {
            // SAFETY: as above; it is there when the order has a kernel.
            let file = unsafe { inherited(order::KERNEL_FD) };
            own_kernel(kernel, file).with_context(|| format!("kernel = {}", kernel.path.display()))?
        }
    };
    // SAFETY: as above; there are as many as the order says.
    let disks = unsafe { Disks::of(&order) };
    let init = guest_init(&config.guest_init)
        .with_context(|| format!("guest-init at {}", config.guest_init.display()))?;
    Ok(Prepared { life, console, init, kernel, disks, on_host: !own_network, order })
}

/// A kernel that libkrun reads from its file, and which stays open: libkrun opens it once more, by [`BareKernel::PATH`].
pub struct BareKernel {
    /// What it is; never a library.
    pub format: Format,
    _file: OwnedFd,
}

impl BareKernel {
    /// A link to what is open; nothing is looked up.
    pub const PATH: &CStr = c"/proc/self/fd/7";
}

/// Loads a library, or leaves a bare kernel to libkrun.
fn own_kernel(kernel: &order::Kernel, file: OwnedFd) -> Result<Option<BareKernel>> {
    if kernel.format == Format::Library {
        load(Path::new(BareKernel::PATH.to_str()?))?;
        return Ok(None);
    }
    guest_memory::expect(None);
    Ok(Some(BareKernel { format: kernel.format, _file: file }))
}

/// Loads a library with a kernel. The jail has no file of it.
fn load(library: &Path) -> Result<()> {
    guest_memory::expect(Some(parts::Libkrunfw::load(library)?.kernel_end()?));
    Ok(())
}

/// Maps guest-init, and checks it: a bad one would make the guest's kernel panic, with a worse message.
fn guest_init(path: &Path) -> Result<&'static [u8]> {
    let program = parts::map_file(path)?;
    parts::check_static(program)?;
    Ok(program)
}

/// # Safety
/// The descriptor must be open, and owned by nobody else.
pub unsafe fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Waits until the parent has written everything and closed its end.
fn read_order(mut pipe: File) -> Result<Order> {
    let mut order = Vec::new();
    pipe.read_to_end(&mut order)?;
    Ok(serde_json::from_slice(&order)?)
}

/// Ends this process when its parent ends, for whatever reason. Nobody writes to the pipe, so a read returns when its last
/// writer is gone.
fn end_with_parent(life: OwnedFd) -> io::Result<()> {
    let mut life = File::from(life);
    thread::Builder::new().name("life".into()).stack_size(64 * 1024).spawn(move || {
        while life.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::Interrupted) {}
        // SAFETY: ends the process at once. It runs no handlers, which could wait for libkrun's threads.
        unsafe { libc::_exit(order::ORPHANED) }
    })?;
    Ok(())
}
