//! The only module that calls libkrun. krun_start_enter ends the process without destructors, so this module must not
//! hold anything that needs clean-up.
//!
//! Nothing that a user controls may go on the kernel command line: libkrun does not escape it, and the guest's kernel
//! obeys it.

use std::{
    convert::Infallible,
    ffi::{CStr, CString, c_int},
    io,
    os::fd::{IntoRawFd, OwnedFd, RawFd},
    ptr,
};

use anyhow::{Context, Result, bail};
use guest_protocol::boot::{self, BootConfig};
use krun as ffi;
use vm_launcher::{Network, Tap, VmConfig, config::SOCKET_NAME, disk, kernel::Format};

use crate::{become_vm::BareKernel, disks, jail};

/// Tag of the virtiofs device that the guest's kernel mounts as its root (libkrun's own name).
const ROOT_TAG: &CStr = c"/dev/root";

/// Our own kernel parameters.
///
/// The self-test of the jitter-entropy generator takes a third of the boot, and the guest does not use the generator. A
/// kernel without KALLSYMS ignores the name. Two more parameters save no more than 2 % and are left out: skipping the
/// RAID initcalls, and short RCU grace periods.
///
/// Else the kernel makes an interface `dummy0`, which no container of runc's has.
const KERNEL_PARAMETERS: [&CStr; 2] = [c"initcall_blacklist=jent_mod_init", c"dummy.numdummies=0"];

/// With a console, show all kernel messages: libkrun's own parameters contain "quiet".
const SHOW_EVERYTHING: &CStr = c"ignore_loglevel";

/// For kernels other than libkrunfw's, which have no root by default.
const ROOT: &CStr = c"root=/dev/root";

/// Mode of PID 1's executable: a regular file, rwxr-xr-x.
const INIT_MODE: u32 = 0o100_755;

/// Mode of the boot file: a regular file, r--------.
const BOOT_MODE: u32 = 0o100_400;

/// Source: `KRUN_TSI_HIJACK_INET` of libkrun.h. The flag for unix sockets (2) is never used: with it a guest could name
/// socket paths.
const TSI_INET: u32 = 1;

/// The offloads of a NIC: checksums and TCP segmentation, in both directions. libkrun sets the same offloads on the tap.
/// With them the guest's driver also accepts frames larger than Ethernet's 1500 bytes.
/// Source: `NET_FEATURE_*` of libkrun.h: CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6.
const NIC_FEATURES: u32 = 1 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12;

/// A disk's file is the disk, byte by byte. Source: `KRUN_DISK_FORMAT_RAW` of libkrun.h.
const DISK_RAW: u32 = 0;

/// Whether a guest's flushes of a disk end in fsync(2), or are not offered. Source: `KRUN_SYNC_*` of libkrun.h.
const SYNC_NONE: u32 = 0;
const SYNC_FULL: u32 = 2;

/// Log levels, targets and options of libkrun.h (`KRUN_LOG_*`).
const LOG_TARGET_STDERR: RawFd = 2;
const LOG_LEVEL_WARN: u32 = 2;
const LOG_LEVEL_INFO: u32 = 3;
const LOG_STYLE_NEVER: u32 = 2;
const LOG_OPTION_NO_ENV: u32 = 1;

/// Configures the VM and becomes it.
pub fn run(
    config: &VmConfig,
    init: &'static [u8],
    boot: &BootConfig,
    (kernel, disks): (Option<&BareKernel>, &[disk::Kind]),
    console: Option<OwnedFd>,
) -> Result<Infallible> {
    let level = if config.debug { LOG_LEVEL_INFO } else { LOG_LEVEL_WARN };
    // SAFETY: plain numbers; no logger is set in this process (krun_init_log panics if one is).
    call("krun_init_log", unsafe {
        ffi::krun_init_log(LOG_TARGET_STDERR, level, LOG_STYLE_NEVER, LOG_OPTION_NO_ENV)
    })?;
    let ctx = call("krun_create_ctx", ffi::krun_create_ctx())?;
    call("krun_set_vm_config", ffi::krun_set_vm_config(ctx, config.cpus, config.memory_mib))?;
    call("krun_disable_implicit_console", ffi::krun_disable_implicit_console(ctx))?;
    call("krun_disable_implicit_vsock", ffi::krun_disable_implicit_vsock(ctx))?;
    // This comes before the root is added, or the root gets libkrun's own init.
    call("krun_disable_implicit_init", ffi::krun_disable_implicit_init(ctx))?;

    add_root(ctx, init, boot)?;
    add_vsock(ctx, &config.network)?;
    if let Network::Tap(taps) = &config.network {
        taps.iter().try_for_each(|tap| add_nic(ctx, tap))?;
    }
    for (number, disk) in disks.iter().enumerate() {
        add_disk(ctx, number, disk)?;
    }
    if config.nested_virt {
        // SAFETY: plain values.
        call("krun_set_nested_virt", unsafe { ffi::krun_set_nested_virt(ctx, true) })?;
    }
    let mut parameters = KERNEL_PARAMETERS.to_vec();
    if let Some(kernel) = kernel {
        set_kernel(ctx, kernel)?;
        parameters.push(ROOT);
    }
    if let Some(terminal) = console {
        add_console(ctx, terminal)?;
        parameters.push(SHOW_EVERYTHING);
    }
    set_kernel_parameters(ctx, &parameters)?;
    let error = ffi::krun_start_enter(ctx);
    call("krun_start_enter", error)?;
    bail!("krun_start_enter returned")
}

fn add_root(ctx: u32, init: &'static [u8], boot: &BootConfig) -> Result<()> {
    let share = CString::new(jail::SHARE)?;
    // SAFETY: strings; no shared-memory (DAX) window; writable, because the volumes below it are.
    call("krun_add_virtiofs3", unsafe {
        ffi::krun_add_virtiofs3(ctx, ROOT_TAG.as_ptr(), share.as_ptr(), 0, false)
    })?;
    // Not one-shot: guest-init executes itself again for each container.
    overlay(ctx, boot::INIT_NAME, init, INIT_MODE, false)?;
    // libkrun does not copy it, so it must live as long as the process.
    let boot: &'static [u8] = serde_json::to_vec(boot)?.leak();
    overlay(ctx, boot::FILE_NAME, boot, BOOT_MODE, false)
}

fn overlay(ctx: u32, name: &str, data: &'static [u8], mode: u32, one_shot: bool) -> Result<()> {
    let c_name = CString::new(name)?;
    // SAFETY: strings, and data that lives as long as the process.
    let result = unsafe {
        ffi::krun_fs_add_overlay_file(
            ctx,
            ROOT_TAG.as_ptr(),
            c_name.as_ptr(),
            data.as_ptr(),
            data.len(),
            mode,
            one_shot,
        )
    };
    call("krun_fs_add_overlay_file", result).with_context(|| format!("adding {name}"))?;
    Ok(())
}

fn add_vsock(ctx: u32, network: &Network) -> Result<()> {
    let tsi = match network {
        Network::Tsi => TSI_INET,
        Network::Tap(_) | Network::None => 0,
    };
    call("krun_add_vsock", ffi::krun_add_vsock(ctx, tsi))?;
    let socket = CString::new(format!("{}/{SOCKET_NAME}", jail::SOCKETS))?;
    // SAFETY: a string. The guest connects; our parent listens on the socket.
    call("krun_add_vsock_port2", unsafe {
        ffi::krun_add_vsock_port2(ctx, boot::VSOCK_PORT, socket.as_ptr(), false)
    })?;
    Ok(())
}

/// Adds a NIC. libkrun opens its tap by name when the guest's driver starts.
fn add_nic(ctx: u32, tap: &Tap) -> Result<()> {
    let name = CString::new(tap.name.as_str())?;
    // SAFETY: a string, an address of six bytes, and numbers.
    let result = unsafe { ffi::krun_add_net_tap(ctx, name.as_ptr(), tap.mac.as_ptr(), NIC_FEATURES, 0) };
    call("krun_add_net_tap", result).with_context(|| format!("adding {}", tap.name))?;
    Ok(())
}

/// Adds a disk, which libkrun opens once more, by a link to what is open.
fn add_disk(ctx: u32, number: usize, disk: &disk::Kind) -> Result<()> {
    let (name, path) = (CString::new(disk.name.as_str())?, CString::new(disks::path(number))?);
    let sync = if disk.durable { SYNC_FULL } else { SYNC_NONE };
    // SAFETY: strings, numbers, and no direct I/O.
    let result = unsafe {
        ffi::krun_add_disk3(ctx, name.as_ptr(), path.as_ptr(), DISK_RAW, disk.read_only, false, sync)
    };
    call("krun_add_disk3", result).with_context(|| format!("adding the disk {}", disk.name))?;
    Ok(())
}

/// Adds a virtio console: the kernels of libkrunfw have a driver for it.
fn add_console(ctx: u32, terminal: OwnedFd) -> Result<()> {
    // SAFETY: the argument is a number.
    let console =
        call("krun_add_virtio_console_multiport", unsafe { ffi::krun_add_virtio_console_multiport(ctx) })?;
    // SAFETY: an empty string, and a descriptor that is given away.
    call("krun_add_console_port_tty", unsafe {
        ffi::krun_add_console_port_tty(ctx, console, c"".as_ptr(), terminal.into_raw_fd())
    })?;
    Ok(())
}

/// Has libkrun boot a kernel from its file, which it opens in `krun_start_enter`. Without a command line of the caller's it uses the
/// same as for libkrunfw's kernel. Source: `KRUN_KERNEL_FORMAT_*` of libkrun.h. Its "raw" (0) is none of a Linux kernel's formats on
/// x86_64: it maps the file, read-only, at 2 GiB and begins at its first byte.
fn set_kernel(ctx: u32, kernel: &BareKernel) -> Result<()> {
    let format = match kernel.format {
        Format::Library => bail!("a library is loaded, and not read"),
        Format::Elf => 1,
        Format::Bzip2 => 3,
        Format::Gzip => 4,
        Format::Zstd => 5,
    };
    // SAFETY: a string, a number, and null pointers for no initramfs and no command line.
    let result =
        unsafe { ffi::krun_set_kernel(ctx, BareKernel::PATH.as_ptr(), format, ptr::null(), ptr::null()) };
    call("krun_set_kernel", result)?;
    Ok(())
}

/// libkrun puts its "environment" on the kernel command line, word by word.
fn set_kernel_parameters(ctx: u32, parameters: &[&'static CStr]) -> Result<()> {
    let parameters: Vec<_> =
        parameters.iter().map(|parameter| parameter.as_ptr()).chain([ptr::null()]).collect();
    // SAFETY: strings, and an array that ends with a null pointer.
    call("krun_set_env", unsafe { ffi::krun_set_env(ctx, parameters.as_ptr()) })?;
    Ok(())
}

/// libkrun returns a negative errno, zero, or a positive id.
fn call(name: &str, result: c_int) -> Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result)).with_context(|| name.to_owned())
}
