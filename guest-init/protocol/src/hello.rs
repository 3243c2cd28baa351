//! The first bytes of a connection that PID 1 dials: its role, and the boot nonce.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Which of the two connections of a VM this is. The discriminant is the byte on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// ttrpc: the guest serves [`crate::api::Guest`].
    Control = 1,
    /// Byte streams: see [`crate::mux`].
    Streams = 2,
}

/// Length of a nonce in bytes: 256 bits in hexadecimal.
pub const NONCE_LEN: usize = 64;

/// Introduces a new connection.
///
/// # Errors
/// `InvalidInput` when the nonce is not [`NONCE_LEN`] bytes; else whatever the write gave.
pub async fn introduce(conn: &mut (impl AsyncWrite + Unpin), role: Role, nonce: &str) -> io::Result<()> {
    if nonce.len() != NONCE_LEN {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a nonce of {} bytes, not {NONCE_LEN}", nonce.len()),
        ));
    }
    let mut hello = Vec::with_capacity(NONCE_LEN + 1);
    hello.push(role as u8);
    hello.extend_from_slice(nonce.as_bytes());
    conn.write_all(&hello).await
}

/// Reads an introduction and checks its nonce.
///
/// # Errors
/// `PermissionDenied` for another nonce, `InvalidData` for an unknown role.
pub async fn expect(conn: &mut (impl AsyncRead + Unpin), nonce: &str) -> io::Result<Role> {
    let mut hello = [0u8; NONCE_LEN + 1];
    conn.read_exact(&mut hello).await?;
    let differs = hello[1..].iter().zip(nonce.as_bytes()).fold(0, |acc, (a, b)| acc | (a ^ b));
    if differs != 0 || nonce.len() != NONCE_LEN {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "wrong boot nonce"));
    }
    match hello[0] {
        1 => Ok(Role::Control),
        2 => Ok(Role::Streams),
        other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("unknown connection role {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_introduction_is_understood() {
        let (mut a, mut b) = tokio::io::duplex(256);
        let nonce = "a1".repeat(32);
        introduce(&mut a, Role::Streams, &nonce).await.unwrap();
        assert_eq!(expect(&mut b, &nonce).await.unwrap(), Role::Streams);
    }

    #[tokio::test]
    async fn another_nonce_is_refused() {
        let (mut a, mut b) = tokio::io::duplex(256);
        introduce(&mut a, Role::Control, &"a1".repeat(32)).await.unwrap();
        let err = expect(&mut b, &"a2".repeat(32)).await.unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::PermissionDenied);
    }
}
