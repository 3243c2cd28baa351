//! Moves bytes between a process's pipe or terminal and a stream. A host that does not read stalls the process and nothing
//! else. At the process's end its pipe is emptied at once, though its children may still hold the other end.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use guest_protocol::mux::{MAX_PAYLOAD, Reader, Writer};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use crate::io::poll;

/// Most bytes that are taken out of a pipe after its process has ended: the default of `fs.pipe-max-size`.
const MAX_DRAIN: usize = 1 << 20;

/// Our end of a pipe, or a terminal's master. Never blocks.
pub struct End(AsyncFd<Arc<OwnedFd>>);

impl End {
    pub fn new(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<End> {
        Ok(End(poll::register(fd, interest)?))
    }

    /// Reads what is there, and does not wait; 0 at the end.
    fn read_now(&self, buf: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the buffer is valid for its length, and the descriptor is open.
        let read = unsafe { libc::read(self.0.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
        match usize::try_from(read) {
            Ok(read) => Ok(read),
            Err(_) => match io::Error::last_os_error() {
                // A terminal whose other side is closed.
                err if err.raw_os_error() == Some(libc::EIO) => Ok(0),
                err => Err(err),
            },
        }
    }

    async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|_| self.read_now(buf)) {
                Ok(done) => return done,
                Err(_would_block) => continue,
            }
        }
    }

    async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let mut ready = self.0.writable().await?;
            let written = ready.try_io(|fd| {
                // SAFETY: the buffer is valid for its length, and the descriptor is open.
                let written = unsafe { libc::write(fd.as_raw_fd(), data.as_ptr().cast(), data.len()) };
                usize::try_from(written).map_err(|_| io::Error::last_os_error())
            });
            if let Ok(written) = written {
                data = &data[written?..];
            }
        }
        Ok(())
    }

    /// What is in the pipe now, up to [`MAX_DRAIN`].
    fn drain(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buf = vec![0; MAX_PAYLOAD];
        while all.len() < MAX_DRAIN {
            match self.read_now(&mut buf) {
                Ok(0) => break,
                Ok(n) => all.extend_from_slice(&buf[..n]),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        all
    }
}

/// Moves bytes from the process to the host. Drops `drained` once the process's output is out of `end`.
pub async fn output(
    end: End,
    mut writer: Writer,
    mut exited: watch::Receiver<bool>,
    drained: mpsc::Sender<()>,
) {
    let mut buf = vec![0; MAX_PAYLOAD];
    let rest = loop {
        let read = tokio::select! {
            biased;
            read = end.read(&mut buf) => read,
            () = writer.refused() => return,
            _ = exited.wait_for(|exited| *exited) => break end.drain(),
        };
        let Ok(n @ 1..) = read else { return };
        let (sent, rest) = {
            let sending = writer.send(&buf[..n]);
            tokio::pin!(sending);
            tokio::select! {
                biased;
                sent = &mut sending => match sent {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                _ = exited.wait_for(|exited| *exited) => {}
            }
            // The host does not read: keep the rest for it, and close the pipe.
            let rest = end.drain();
            drop((end, drained));
            (sending.await, rest)
        };
        if sent.is_ok() {
            let _ = writer.send(&rest).await;
        }
        return;
    };
    drop((end, drained));
    let _ = writer.send(&rest).await;
}

/// Moves bytes from the host to the process. The host's end of file closes a pipe; a terminal stays open.
pub async fn input(mut reader: Reader, end: End, mut exited: watch::Receiver<bool>, terminal: bool) {
    let feed = async {
        while let Some(chunk) = reader.recv().await {
            if end.write_all(&chunk).await.is_err() {
                return;
            }
        }
        if terminal {
            std::future::pending().await
        }
    };
    tokio::select! {
        () = feed => {}
        _ = exited.wait_for(|exited| *exited) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use guest_protocol::mux::{Mux, WINDOW};
    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    fn muxes() -> (Mux, Mux) {
        let (a, b) = tokio::io::duplex(8192);
        (Mux::start(a).0, Mux::start(b).0)
    }

    fn pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
        std::io::pipe().unwrap()
    }

    fn end(fd: OwnedFd, interest: Interest) -> End {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        End::new(Arc::new(fd), interest).unwrap()
    }

    #[tokio::test]
    async fn output_ends_at_exit_though_a_child_holds_the_pipe() {
        let (host, guest) = muxes();
        let (mut from_guest, _w) = host.open(16).unwrap();
        let (_, writer) = guest.open(16).unwrap();
        let (read, mut held) = pipe();
        held.write_all(b"last words").unwrap();
        let (exited, watch) = watch::channel(false);
        let (drained, mut all) = mpsc::channel(1);
        tokio::spawn(output(end(read.into(), Interest::READABLE), writer, watch, drained));
        exited.send(true).unwrap();
        assert!(all.recv().await.is_none());
        assert_eq!(from_guest.recv().await.unwrap(), b"last words");
        assert_eq!(from_guest.recv().await, None);
        drop(held);
    }

    #[tokio::test]
    async fn a_stalled_host_does_not_hold_up_the_exit_and_loses_nothing() {
        let (host, guest) = muxes();
        let (mut from_guest, _w) = host.open(16).unwrap();
        let (_, writer) = guest.open(16).unwrap();
        let (read, mut write) = pipe();
        let total = WINDOW + 2 * MAX_PAYLOAD;
        let feeder = std::thread::spawn(move || write.write_all(&vec![7; total]).unwrap());
        let (exited, watch) = watch::channel(false);
        let (drained, mut all) = mpsc::channel(1);
        tokio::spawn(output(end(read.into(), Interest::READABLE), writer, watch, drained));
        while !feeder.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        exited.send(true).unwrap();
        assert!(all.recv().await.is_none());
        let mut got = 0;
        while let Some(chunk) = from_guest.recv().await {
            got += chunk.len();
        }
        assert_eq!(got, total);
    }

    #[tokio::test]
    async fn a_host_that_refuses_breaks_the_pipe() {
        let (host, guest) = muxes();
        let (from_guest, _w) = host.open(16).unwrap();
        let (_, writer) = guest.open(16).unwrap();
        let (read, mut write) = pipe();
        let (_exited, watch) = watch::channel(false);
        let (drained, mut all) = mpsc::channel(1);
        tokio::spawn(output(end(read.into(), Interest::READABLE), writer, watch, drained));
        drop(from_guest);
        assert!(all.recv().await.is_none());
        assert_eq!(write.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn end_of_input_closes_the_pipe() {
        let (host, guest) = muxes();
        let (_r, mut to_guest) = host.open(16).unwrap();
        let (reader, _) = guest.open(16).unwrap();
        let (mut read, write) = pipe();
        let (_exited, watch) = watch::channel(false);
        let pump = tokio::spawn(input(reader, end(write.into(), Interest::WRITABLE), watch, false));
        to_guest.send(b"hello").await.unwrap();
        drop(to_guest);
        pump.await.unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }
}
