//! How a connection introduces itself: only the right nonce opens the door.

use std::io::ErrorKind;

use guest_protocol::hello::{NONCE_LEN, Role, expect};

/// Introduces a connection by `data`.
pub fn run(mut data: &[u8]) {
    let nonce = "a1".repeat(NONCE_LEN / 2);
    let said = data.get(1..=NONCE_LEN).map(|said| (data[0], said == nonce.as_bytes()));
    let heard = crate::block_on(expect(&mut data, &nonce)).map_err(|error| error.kind());
    match said {
        None => assert_eq!(heard, Err(ErrorKind::UnexpectedEof)),
        Some((_, false)) => assert_eq!(heard, Err(ErrorKind::PermissionDenied)),
        Some((1, true)) => assert_eq!(heard, Ok(Role::Control)),
        Some((2, true)) => assert_eq!(heard, Ok(Role::Streams)),
        Some((_, true)) => assert_eq!(heard, Err(ErrorKind::InvalidData)),
    }
}
