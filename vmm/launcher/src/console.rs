//! The kernel's console for debugging: a pseudo-terminal, because libkrun needs a terminal. A thread copies its output to a
//! file. It never stops reading: an output that nobody reads stalls the VM.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    thread,
};

use nix::{
    fcntl::OFlag,
    pty::{grantpt, posix_openpt, unlockpt},
};

/// Maximum size of the output that is kept, in bytes.
const MAX_OUTPUT: usize = 16 * 1024 * 1024;

/// Opens the file that takes the output, and makes it if there is none. Others may be able to write its directory: a link in
/// the place of the file is not followed, and a FIFO or a device is not waited for.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
    }
}

/// Makes a terminal whose output goes to `file` until its last descriptor is closed.
pub fn copied_to(file: File) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    // SAFETY: this request takes open flags and returns a descriptor of the terminal.
    let terminal = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) };
    if terminal < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else knows.
    let terminal = unsafe { OwnedFd::from_raw_fd(terminal) };
    // SAFETY: PtyMaster has given up its descriptor.
    let master = unsafe { OwnedFd::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(master)) };
    thread::Builder::new().name("console".into()).spawn(move || copy(File::from(master), file))?;
    Ok(terminal)
}

/// Ends with an error when the terminal is closed.
fn copy(mut master: File, mut file: File) {
    let mut buffer = [0; 4096];
    let mut room = MAX_OUTPUT;
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        let kept = count.min(room);
        room -= kept;
        if file.write_all(&buffer[..kept]).is_err() {
            room = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_goes_to_regular_files_only() {
        let dir = std::env::temp_dir().join(format!("console-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = |name: &str| dir.join(name);
        for _ in 0..2 {
            open(&path("new")).unwrap().write_all(b"x").unwrap();
        }
        assert_eq!(std::fs::read(path("new")).unwrap(), b"xx");
        std::os::unix::fs::symlink("new", path("link")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        // Somebody reads the first FIFO, and nobody the second.
        let _reader = File::options().read(true).write(true).open(path("fifo")).unwrap();
        nix::unistd::mkfifo(&path("unread"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["link", "fifo", "unread", "socket", "missing/file"] {
            assert!(open(&path(name)).is_err(), "{name}");
        }
        assert!(open(Path::new("/dev/null")).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn output_on_the_terminal_arrives_in_the_file() {
        let (mut read, write) = io::pipe().unwrap();
        let terminal = copied_to(File::from(OwnedFd::from(write))).unwrap();
        File::from(terminal).write_all(b"Linux version\n").unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "Linux version\r\n");
    }
}
