//! How a connection introduces itself: only the right nonce opens the door.

use std::io::ErrorKind;

use guest_protocol::hello::{HelloError, NONCE_LEN, Role, expect};

/// Introduces a connection by `data`.
pub fn run(mut data: &[u8]) {
    let nonce = "a1".repeat(NONCE_LEN / 2);
    let said = data.get(1..=NONCE_LEN).map(|said| (data[0], said == nonce.as_bytes()));
    let heard = crate::block_on(expect(&mut data, &nonce));
    match (said, heard) {
        (None, Err(HelloError::Connection(error))) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof),
        (Some((_, false)), Err(HelloError::Nonce)) => {}
        (Some((1, true)), Ok(Role::Control)) => {}
        (Some((2, true)), Ok(Role::Streams)) => {}
        (Some((3.. | 0, true)), Err(HelloError::Role(_))) => {}
        (said, heard) => panic!("{said:?}: {heard:?}"),
    }
}
