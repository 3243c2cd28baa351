//! The VM's exit status and its end. Failures end here, so nothing here may fail.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use guest_protocol::boot::GAVE_UP_STATUS;

/// libkrun's ioctl on any virtiofs file: the argument becomes the VM's exit status
/// (`VIRTIO_IOC_EXIT_CODE_REQ` in its fs device).
const EXIT_STATUS_IOCTL: libc::Ioctl = 0x7602;

/// i8042 command port and its command "pulse the reset line": libkrun ends the VM at that.
const I8042_COMMAND_PORT: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;

/// Sets the status that the vmm will exit with. May be called again.
pub fn set_exit_status(status: u8) {
    if let Ok(root) = File::open("/") {
        // SAFETY: the request takes a plain number; the descriptor lives across the call.
        unsafe { libc::ioctl(root.as_raw_fd(), EXIT_STATUS_IOCTL, libc::c_ulong::from(status)) };
    }
}

/// Writes why PID 1 gives up to the kernel's log, and sets the status that means giving up.
pub fn last_words(why: &str) {
    set_exit_status(GAVE_UP_STATUS);
    if let Ok(mut kmsg) = File::options().write(true).open("/dev/kmsg") {
        // One write is one record. The kernel cuts long ones.
        let _ = kmsg.write_all(format!("<2>guest-init: {}", why.replace('\n', "; ")).as_bytes());
    }
}

/// Writes panics to the kernel's log and to our own.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        log::error!("panic: {info}");
        if let Ok(mut kmsg) = File::options().write(true).open("/dev/kmsg") {
            let _ = kmsg.write_all(format!("<2>guest-init: {info}").replace('\n', "; ").as_bytes());
        }
    }));
}

/// Ends the VM at once, without a sync.
pub fn off() -> ! {
    if std::process::id() == 1 {
        #[cfg(target_arch = "x86_64")]
        reset();
        // SAFETY: takes no memory; the kernel restarts, which the vmm takes for its end.
        unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    }
    std::process::exit(1)
}

/// Resets the machine with one instruction. The kernel's orderly restart takes longer and does nothing that is needed.
#[cfg(target_arch = "x86_64")]
fn reset() {
    // SAFETY: asks for access to one port; no memory is involved.
    if unsafe { libc::ioperm(I8042_COMMAND_PORT.into(), 1, 1) } != 0 {
        return;
    }
    // SAFETY: access to the port was granted above; it resets the machine and touches no memory.
    unsafe {
        std::arch::asm!("out dx, al", in("dx") I8042_COMMAND_PORT, in("al") I8042_RESET,
            options(nomem, nostack, preserves_flags));
    }
    // Another thread of the vmm stops this vCPU, which takes a moment.
    std::thread::sleep(std::time::Duration::from_secs(2));
}
