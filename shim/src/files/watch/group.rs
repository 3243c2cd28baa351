//! A group of fanotify: a queue of events and the marks that fill it.

use std::{io, process, thread};

use linux::process_uid;
use nix::{
    errno::Errno,
    sys::fanotify::{EventFFlags, Fanotify, InitFlags},
};

/// A new group. Its own bounds hold, not those of a user: the kernel counts it for one that only this process has, as the groups
/// that a user may have (128; proc_sys_fs(5)) are few, and root's are other programs' too.
pub fn group() -> io::Result<Fanotify> {
    let made = thread::Builder::new().name("watch".to_owned()).spawn(|| {
        // This thread ends after it.
        become_user(process_uid::of(process::id()))?;
        init()
    });
    made?.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Gives the calling thread another effective user, and leaves it its capabilities.
#[expect(clippy::disallowed_methods, reason = "a call without a path")]
fn become_user(uid: u32) -> io::Result<()> {
    const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    // SAFETY: plain numbers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) })?;
    let unchanged = libc::uid_t::MAX;
    // Not the C library's: that one changes all threads.
    // SAFETY: plain numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, unchanged, uid, unchanged) })?;
    Ok(())
}

fn init() -> io::Result<Fanotify> {
    let report = InitFlags::from_bits_retain(libc::FAN_REPORT_DFID_NAME | libc::FAN_REPORT_FID);
    let flags = InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK | InitFlags::FAN_UNLIMITED_MARKS | report;
    Ok(Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC)?)
}
