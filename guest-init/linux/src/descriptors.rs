//! Messages between processes with descriptors in them. Source: unix(7), `SCM_RIGHTS`.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors that a message may have.
pub const MAX: usize = 16;

/// Bytes that [`MAX`] descriptors take in a message.
const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX));

/// Sends `bytes` (not empty) with copies of `descriptors` (at most [`MAX`]) over a connected unix socket, without waiting.
///
/// # Errors
/// The kernel's; `InvalidInput` for too many descriptors, `WriteZero` when not all bytes could be sent at once.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.len() > MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("more than {MAX} descriptors")));
    }
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("descriptors take more room than the kernel says"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)? == bytes.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Takes what [`send`] sent, without waiting, and says how many bytes it has; 0 is the connection's end.
///
/// # Errors
/// The kernel's; `InvalidData` when there were more than [`MAX`] descriptors, which are closed.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {MAX} descriptors")));
    }
    Ok((message.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn descriptors_lead_to_the_same_files_and_are_not_inherited() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut read, write) = io::pipe().unwrap();
        send(&here, b"a pipe", &[write.as_fd()]).unwrap();
        drop(write);
        let mut buffer = [0; 32];
        let (length, mut descriptors) = receive(&there, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], descriptors.len()), (&b"a pipe"[..], 1));
        let received = descriptors.remove(0);
        let flags = nix::fcntl::fcntl(&received, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, libc::FD_CLOEXEC);
        File::from(received).write_all(b"x").unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn nothing_to_take_is_told_from_the_end() {
        let (here, there) = UnixStream::pair().unwrap();
        let error = receive(&there, &mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(here);
        assert_eq!(receive(&there, &mut [0; 8]).unwrap().0, 0);
    }

    #[test]
    fn too_many_are_not_sent() {
        let (here, there) = UnixStream::pair().unwrap();
        let (_read, write) = io::pipe().unwrap();
        let error = send(&here, b"x", &[write.as_fd(); MAX + 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(receive(&there, &mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn too_many_are_refused_and_closed() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut read, write) = io::pipe().unwrap();
        let many = [write.as_fd(); MAX + 8];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX + 8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
        sendmsg(&here, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        drop(write);
        assert_eq!(receive(&there, &mut [0; 8]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read.read(&mut [0; 8]).unwrap(), 0);
    }
}
