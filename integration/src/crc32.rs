//! The checksum that busybox's `crc32` computes in every container, computed on this side, and data worth summing.

/// CRC-32 as of zip and zlib.
pub fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320; // IEEE 802.3, lowest bit first
    let table: [u32; 256] = std::array::from_fn(|i| {
        (0..8).fold(i as u32, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 })
    });
    !bytes.iter().fold(!0, |crc: u32, byte| (crc >> 8) ^ table[(crc as u8 ^ byte) as usize])
}

/// `len` bytes that look random and are the same every time.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64; // xorshift64, any seed but zero
    (0..len.div_ceil(8))
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(len)
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn as_busybox_says() {
        // printf 123456789 | busybox crc32
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(super::crc32(b""), 0);
    }

    #[test]
    fn noise_has_its_length() {
        assert_eq!(super::noise(13).len(), 13);
    }
}
