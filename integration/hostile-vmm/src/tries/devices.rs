//! Devices, and requests to them.

use syscalls::Sysno;

use super::{Outcome, Try, done, files::open, one};
use crate::{attempt::call, limits};

const READ_WRITE: i32 = libc::O_RDWR;

/// KVM_CREATE_VM of linux/kvm.h.
const CREATE_VM: usize = 0xae01;

/// More VMs than this are not tried: each has a thread of the host's kernel.
const VMS: usize = 100;

/// Requests of linux/kvm.h that libkrun does not make: KVM_CREATE_DEVICE, KVM_MEMORY_ENCRYPT_OP, KVM_ENABLE_CAP.
const CREATE_DEVICE: usize = 0xc00c_aee0;
const MEMORY_ENCRYPT: usize = 0xc008_aeba;
const ENABLE_CAP: usize = 0x4068_aea3;

/// TUNSETOWNER, TUNSETPERSIST and TUNATTACHFILTER of linux/if_tun.h.
const SET_OWNER: usize = 0x4004_54cc;
const SET_PERSIST: usize = 0x4004_54cb;
const ATTACH_FILTER: usize = 0x4010_54d5;

/// VHOST_SET_OWNER of linux/vhost.h; FIFREEZE, FS_IOC_SETFLAGS and FICLONE of linux/fs.h; FIOSETOWN of asm-generic/sockios.h.
const VHOST_SET_OWNER: usize = 0xaf01;
const FREEZE: usize = 0xc004_5877;
const SET_FLAGS: usize = 0x4008_6602;
const CLONE: usize = 0x4004_9409;
const OWN_SIGNALS: usize = 0x8901;

pub const TRIES: &[Try] = &[
    one("open /dev/mem", || open("/dev/mem", READ_WRITE)),
    one("open /dev/kmsg", || open("/dev/kmsg", READ_WRITE)),
    one("open /dev/vhost-vsock", || open("/dev/vhost-vsock", READ_WRITE)),
    one("open /dev/fuse", || open("/dev/fuse", READ_WRITE)),
    one("open /dev/kvm", || open("/dev/kvm", READ_WRITE)),
    one("open /dev/net/tun", || open("/dev/net/tun", READ_WRITE)),
    one("make a second VM", || {
        let kvm = opened(c"/dev/kvm")?;
        // As libkrun makes the first: by the C library's function, which krun-vmm replaces.
        // SAFETY: the request takes a number.
        nix::errno::Errno::result(unsafe { libc::ioctl(kvm as i32, CREATE_VM as libc::c_ulong, 0) })?;
        let (count, errno) = limits::until_error(VMS, || call(Sysno::ioctl, &[kvm, CREATE_VM, 0]).map(drop));
        Ok(format!("{count} {errno:?}"))
    }),
    one("make a device of KVM's", || kvm(CREATE_DEVICE)),
    one("enable a capability of KVM's", || kvm(ENABLE_CAP)),
    one("encrypt memory by KVM", || kvm(MEMORY_ENCRYPT)),
    one("attach to a tap that there is not", || {
        let file = opened(c"/dev/net/tun")?;
        // `struct ifreq`: a name, and flags IFF_TAP, IFF_NO_PI and IFF_VNET_HDR.
        let mut request = [0_u8; 40];
        request[..7].copy_from_slice(b"hostile");
        request[16..18].copy_from_slice(&0x5002_u16.to_ne_bytes());
        done(call(Sysno::ioctl, &[file, libc::TUNSETIFF as usize, request.as_ptr() as usize]))
    }),
    one("own a tap", || ioctl(SET_OWNER)),
    one("keep a tap", || ioctl(SET_PERSIST)),
    one("filter a tap", || ioctl(ATTACH_FILTER)),
    one("set an interface's flags", || ioctl(libc::SIOCSIFFLAGS as usize)),
    one("set an interface's address", || ioctl(libc::SIOCSIFADDR as usize)),
    one("own a vhost device", || ioctl(VHOST_SET_OWNER)),
    one("type into a terminal", || ioctl(libc::TIOCSTI as usize)),
    one("paste into a terminal", || ioctl(libc::TIOCLINUX as usize)),
    one("take a controlling terminal", || ioctl(libc::TIOCSCTTY as usize)),
    one("freeze a file system", || ioctl(FREEZE)),
    one("set a file's flags", || ioctl(SET_FLAGS)),
    one("clone a file", || ioctl(CLONE)),
    one("own a descriptor's signals by ioctl", || ioctl(OWN_SIGNALS)),
];

fn opened(path: &std::ffi::CStr) -> Result<usize, nix::errno::Errno> {
    call(Sysno::openat, &[libc::AT_FDCWD as usize, path.as_ptr() as usize, READ_WRITE as usize])
}

/// A request to the VM that it makes.
fn kvm(request: usize) -> Outcome {
    let vm = call(Sysno::ioctl, &[opened(c"/dev/kvm")?, CREATE_VM, 0])?;
    done(call(Sysno::ioctl, &[vm, request, 0]))
}

/// A request to stderr: the filter kills whatever it is made to.
fn ioctl(request: usize) -> Outcome {
    done(call(Sysno::ioctl, &[2, request, 0]))
}
