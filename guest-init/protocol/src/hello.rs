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

/// Why a connection was not introduced.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// What is to be sent is no nonce: it has this many bytes.
    #[error("a nonce of {0} bytes, not {NONCE_LEN}")]
    Length(usize),
    /// The nonce is another: whoever dialled is not PID 1.
    #[error("wrong boot nonce")]
    Nonce,
    /// No connection has this role.
    #[error("unknown connection role {0}")]
    Role(u8),
    /// The connection failed, or ended before the whole introduction had come.
    #[error(transparent)]
    Connection(#[from] io::Error),
}

/// Introduces a new connection.
///
/// # Errors
/// [`HelloError::Length`]; [`HelloError::Connection`] when it cannot be written.
pub async fn introduce(
    conn: &mut (impl AsyncWrite + Unpin),
    role: Role,
    nonce: &str,
) -> Result<(), HelloError> {
    if nonce.len() != NONCE_LEN {
        return Err(HelloError::Length(nonce.len()));
    }
    let mut hello = Vec::with_capacity(NONCE_LEN + 1);
    hello.push(role as u8);
    hello.extend_from_slice(nonce.as_bytes());
    Ok(conn.write_all(&hello).await?)
}

/// Reads an introduction and checks its nonce, in a time that does not depend on where it differs. It waits for as long as
/// the peer is silent.
///
/// # Errors
/// [`HelloError::Nonce`], [`HelloError::Role`]; [`HelloError::Connection`] when it cannot be read.
pub async fn expect(conn: &mut (impl AsyncRead + Unpin), nonce: &str) -> Result<Role, HelloError> {
    let mut hello = [0u8; NONCE_LEN + 1];
    conn.read_exact(&mut hello).await?;
    let differs = hello[1..].iter().zip(nonce.as_bytes()).fold(0, |acc, (a, b)| acc | (a ^ b));
    if differs != 0 || nonce.len() != NONCE_LEN {
        return Err(HelloError::Nonce);
    }
    match hello[0] {
        1 => Ok(Role::Control),
        2 => Ok(Role::Streams),
        other => Err(HelloError::Role(other)),
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
        assert!(matches!(err, HelloError::Nonce), "{err}");
    }
}
