//! The two connections to the host. PID 1 dials them first of all, so that the host answers while PID 1 mounts. No
//! container may inherit them: they are CLOEXEC, and a fork closes them first of all.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use guest_protocol::hello::{Role, introduce};
use linux::vsock::dial;
use tokio::net::UnixStream;

/// Two connections on their way.
pub struct Dials {
    control: OwnedFd,
    streams: OwnedFd,
}

/// Starts to dial `port` on the host twice, and does not wait.
pub fn start(port: u32) -> Result<Dials> {
    Ok(Dials {
        control: dial(port).with_context(|| format!("dial the host's vsock port {port}"))?,
        streams: dial(port).with_context(|| format!("dial the host's vsock port {port} again"))?,
    })
}

impl Dials {
    /// Waits for both connections, introduces them, and wipes the nonce.
    pub async fn introduce(self, mut nonce: String) -> Result<(UnixStream, UnixStream)> {
        let control = connected(self.control, Role::Control, &nonce).await.context("control connection")?;
        let streams = connected(self.streams, Role::Streams, &nonce).await.context("stream connection")?;
        // SAFETY: zeroes are valid UTF-8. The writes are volatile, so that the compiler keeps them.
        unsafe { nonce.as_bytes_mut() }.iter_mut().for_each(|byte| {
            // SAFETY: an exclusive reference is valid for writing.
            unsafe { std::ptr::write_volatile(byte, 0) }
        });
        Ok((control, streams))
    }
}

async fn connected(socket: OwnedFd, role: Role, nonce: &str) -> Result<UnixStream> {
    // tokio's stream only reads, writes and polls, which is the same for every address family.
    let mut stream = UnixStream::from_std(socket.into()).context("register the socket")?;
    stream.writable().await.context("wait for the host to accept")?;
    if let Some(err) = stream.take_error()? {
        return Err(err).context("connect to the host");
    }
    introduce(&mut stream, role, nonce).await.context("introduce the connection")?;
    Ok(stream)
}
