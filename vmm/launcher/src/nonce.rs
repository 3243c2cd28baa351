//! The secret that proves that a connection comes from PID 1.

use std::io;

use guest_protocol::hello::NONCE_LEN;

/// Makes a nonce: 256 random bits in hexadecimal.
pub fn make() -> io::Result<String> {
    let mut bytes = [0u8; NONCE_LEN / 2];
    // SAFETY: the buffer is valid for writes of its length.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != bytes.len() as isize {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_nonce_has_the_right_length_and_two_differ() {
        let (a, b) = (super::make().unwrap(), super::make().unwrap());
        assert_eq!(a.len(), guest_protocol::hello::NONCE_LEN);
        assert_ne!(a, b);
    }
}
