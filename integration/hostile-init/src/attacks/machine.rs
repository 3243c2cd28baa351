//! The VM itself.

use std::{fs, io, os::fd::AsRawFd, process};

use nix::{
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};

use super::{Attack, once_started};

/// libkrun's ioctl on any virtiofs file: the argument becomes the VM's exit status (`VIRTIO_IOC_EXIT_CODE_REQ` in its fs
/// device).
const EXIT_STATUS_IOCTL: libc::Ioctl = 0x7602;

/// The attack of this name.
pub fn find(attack: &str) -> Option<Attack> {
    Some(match attack {
        "ends-with-status-0" => |guest| once_started(guest, |_| end_with_0()),
        "exits-later" => |guest| once_started(guest, |_| process::exit(0)),
        "crashes" => |guest| once_started(guest, |_| crash()),
        "spins" => |guest| {
            once_started(guest, |_| {
                loop {
                    std::hint::spin_loop();
                }
            })
        },
        "eats-memory" => |guest| once_started(guest, |_| eat()),
        _ => return None,
    })
}

/// The status that libkrun is to end with, and the end, without a record.
fn end_with_0() -> io::Result<()> {
    let root = fs::File::open("/")?;
    // SAFETY: the request takes a plain number; the descriptor lives across the call.
    unsafe { libc::ioctl(root.as_raw_fd(), EXIT_STATUS_IOCTL, 0 as libc::c_ulong) };
    reboot(RebootMode::RB_AUTOBOOT).map(drop).map_err(io::Error::from)
}

/// A panic of the kernel's.
fn crash() -> io::Result<()> {
    // EBUSY where the kernel has mounted it; the write tells.
    let _ = mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>);
    fs::write("/proc/sysrq-trigger", "c")
}

fn eat() -> io::Result<()> {
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![0xa5u8; 4 << 20]);
        std::hint::black_box(&eaten);
    }
}
