//! Block devices whose contents are those of files. Source: linux/loop.h, loop(4).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

const CONTROL: &str = "/dev/loop-control";

/// Requests, and flags of a device.
const GET_FREE: libc::Ioctl = 0x4c82;
const CONFIGURE: libc::Ioctl = 0x4c0a;
const READ_ONLY: u32 = 1;
const UNTIL_UNUSED: u32 = 4;

/// How often a free device may have been taken by somebody else.
const ATTEMPTS: usize = 16;

/// `struct loop_config`, with `struct loop_info64` in it.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// A device. It is free again when this is dropped, unless it is mounted: then when it no longer is.
pub struct LoopDevice {
    number: u32,
    _open: File,
}

impl LoopDevice {
    /// Where it is.
    pub fn path(&self) -> PathBuf {
        device(self.number)
    }
}

fn device(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

/// A device with the contents of `file`.
///
/// # Errors
/// The kernel's.
pub fn of(file: &Path, read_only: bool) -> io::Result<LoopDevice> {
    let file = File::options().read(true).write(!read_only).open(file)?;
    let control = File::options().read(true).write(true).open(CONTROL)?;
    let flags = UNTIL_UNUSED | if read_only { READ_ONLY } else { 0 };
    for _ in 0..ATTEMPTS {
        // SAFETY: a request without arguments.
        let number = Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) })? as u32;
        let open = File::options().read(true).write(true).open(device(number))?;
        // SAFETY: zeros are a valid configuration: numbers and bytes.
        let mut config: Config = unsafe { std::mem::zeroed() };
        config.fd = file.as_raw_fd() as u32;
        config.info.flags = flags;
        // SAFETY: the structure that the request takes, which outlives the call.
        match Errno::result(unsafe { libc::ioctl(open.as_raw_fd(), CONFIGURE, &raw const config) }) {
            Ok(_) => return Ok(LoopDevice { number, _open: open }),
            Err(Errno::EBUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other("no loop device is free"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_headers_sizes() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }
}
