//! A process's terminal: receiving its master, and its size. The slave is in the container's
//! own devpts; the master never leaves PID 1.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Receives the master that libcontainer sent to the console socket `listener` while it made the container.
pub fn accept(listener: &UnixListener, path: &Path) -> Result<OwnedFd> {
    let (connection, _) = listener.accept().with_context(|| format!("accept on {}", path.display()))?;
    connection.set_nonblocking(true).context("make the console connection non-blocking")?;
    receive(&connection)
}

/// Receives one descriptor.
pub fn receive(connection: &UnixStream) -> Result<OwnedFd> {
    let mut byte = [0u8; 64];
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    let mut control = [0u64; 8];
    // SAFETY: all zeroes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message points at buffers that outlive the call.
    let got = unsafe { libc::recvmsg(connection.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
    if got < 0 {
        return Err(io::Error::last_os_error()).context("receive the terminal");
    }
    // SAFETY: the kernel has filled the control buffer, and says how far.
    let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    if header.is_null() {
        bail!("receive the terminal: no descriptor came");
    }
    // SAFETY: not null, so a whole header within the buffer.
    let kind = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
    if kind != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
        bail!("receive the terminal: no descriptor came");
    }
    // SAFETY: an SCM_RIGHTS message holds at least one descriptor, and it is now ours.
    let master = unsafe { OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()) };
    nonblocking(&master)?;
    Ok(master)
}

/// Sends one descriptor.
pub fn send(connection: RawFd, fd: RawFd) -> io::Result<()> {
    let mut byte = [0u8; 1];
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = [0u64; 4];
    // SAFETY: all zeroes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: computes a length.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;
    // SAFETY: the control buffer has room for one header and one descriptor.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
    }
    // SAFETY: the message points at buffers that outlive the call.
    match unsafe { libc::sendmsg(connection, &message, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Sets the size of the terminal behind `master`, in characters.
pub fn resize(master: &impl AsRawFd, width: u32, height: u32) -> Result<()> {
    let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let size = libc::winsize { ws_row: clamp(height), ws_col: clamp(width), ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request takes a winsize, which outlives the call.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &size) } < 0 {
        return Err(io::Error::last_os_error()).context("set the terminal's size");
    }
    Ok(())
}

fn nonblocking(fd: &OwnedFd) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("make the terminal non-blocking")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_descriptor_travels() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        send(a.as_raw_fd(), write.as_raw_fd()).unwrap();
        drop(write);
        let got = receive(&b).unwrap();
        std::fs::File::from(got).write_all(b"x").unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }
}
