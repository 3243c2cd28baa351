//! What a layer or archive is packed with: its first bytes tell, not its declared type.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// The largest window of zstd in memory: 128 MiB, as the `zstd` command takes.
const WINDOW_LOG: u32 = 27;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The unpacked bytes of `packed`: gzip, zstd, or as they are.
pub(crate) fn reader<'a>(packed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::with_capacity(ZSTD.len());
    let mut packed = packed;
    packed.by_ref().take(ZSTD.len() as u64).read_to_end(&mut head)?;
    let is = |magic: &[u8]| head.starts_with(magic);
    let (gzip, zstd) = (is(&GZIP), is(&ZSTD));
    let all = BufReader::with_capacity(128 << 10, io::Cursor::new(head).chain(packed));
    Ok(if gzip {
        Box::new(MultiGzDecoder::new(all))
    } else if zstd {
        Box::new(zstd_reader(all)?)
    } else {
        Box::new(all)
    })
}

fn zstd_reader<'a, R: BufRead>(packed: R) -> io::Result<zstd::Decoder<'a, R>> {
    let mut decoder = zstd::Decoder::with_buffer(packed)?;
    decoder.window_log_max(WINDOW_LOG)?;
    Ok(decoder)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn unpacked(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        reader(packed)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_first_bytes_tell_what_it_is_packed_with() {
        assert_eq!(unpacked(&gzip(b"abc")).unwrap(), b"abc");
        assert_eq!(unpacked(&zstd::encode_all(&b"abc"[..], 1).unwrap()).unwrap(), b"abc");
        for plain in [&b"abcdefgh"[..], b"a", b"", &GZIP[..1]] {
            assert_eq!(unpacked(plain).unwrap(), plain);
        }
    }

    #[test]
    fn gzip_in_several_members_is_read_to_its_end() {
        assert_eq!(unpacked(&[gzip(b"abc"), gzip(b"def")].concat()).unwrap(), b"abcdef");
    }

    #[test]
    fn a_cut_off_stream_is_an_error() {
        let (gzip, zstd) = (gzip(&[7; 9000]), zstd::encode_all(&[7; 9000][..], 1).unwrap());
        for packed in [gzip, zstd] {
            unpacked(&packed[..packed.len() - 1]).unwrap_err();
        }
    }

    #[test]
    fn zstd_that_wants_more_memory_than_is_given_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(WINDOW_LOG + 1).unwrap();
        encoder.write_all(&[0; 4096]).unwrap();
        unpacked(&encoder.finish().unwrap()).unwrap_err();
    }
}
