//! The VM's disk, and requests that the kernel has for block devices.

use std::ffi::CString;

use syscalls::Sysno;

use super::{Outcome, Try, done, one};
use crate::attempt::{call, volume};

/// The disk, if the VM has one. Source: `DISK_FD` of vmm/launcher/src/order.rs.
const DISK: usize = 8;

/// Requests of linux/fs.h: BLKROSET, BLKRRPART, BLKDISCARD, BLKZEROOUT.
const SET_READ_ONLY: usize = 0x125d;
const READ_PARTITIONS: usize = 0x125f;
const DISCARD: usize = 0x1277;
const ZERO: usize = 0x127f;

/// SG_IO of scsi/sg.h; LOOP_SET_FD and LOOP_CHANGE_FD of linux/loop.h.
const SCSI: usize = 0x2285;
const SET_LOOP: usize = 0x4c00;
const CHANGE_LOOP: usize = 0x4c06;

/// 1 TiB.
const LARGER: usize = 1 << 40;

pub const TRIES: &[Try] = &[
    one("read its disk", || {
        let mut byte = [0_u8; 1];
        done(call(Sysno::pread64, &[DISK, byte.as_mut_ptr() as usize, 1, 0]))
    }),
    one("make its disk larger", || done(call(Sysno::ftruncate, &[DISK, LARGER]))),
    one("open .. of its disk", || done(call(Sysno::openat, &[DISK, c"..".as_ptr() as usize, 0]))),
    one("link its disk into a volume", || {
        let to = CString::new(volume("disk")).unwrap_or_default();
        let (cwd, none) = (libc::AT_FDCWD as usize, c"".as_ptr() as usize);
        done(call(Sysno::linkat, &[DISK, none, cwd, to.as_ptr() as usize, libc::AT_EMPTY_PATH as usize]))
    }),
    one("take the mark off its disk", || {
        done(call(Sysno::fremovexattr, &[DISK, c"trusted.krun.guest".as_ptr() as usize]))
    }),
    one("set a device read-only", || ask(SET_READ_ONLY)),
    one("read a device's partitions", || ask(READ_PARTITIONS)),
    one("discard a device", || ask(DISCARD)),
    one("zero a device", || ask(ZERO)),
    one("send SCSI to a device", || ask(SCSI)),
    one("set a loop device", || ask(SET_LOOP)),
    one("change a loop device", || ask(CHANGE_LOOP)),
];

/// A request to its disk.
fn ask(request: usize) -> Outcome {
    done(call(Sysno::ioctl, &[DISK, request, 0]))
}
