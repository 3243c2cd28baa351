//! Tells what kind of kernel a file is, from its headers. It unpacks nothing: that is left to the jailed vmm.

use std::{fs::File, os::unix::fs::FileExt};

use serde::{Deserialize, Serialize};

use super::Problem;
use crate::find::LIBKRUNFW;

/// What libkrun can boot on x86_64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A library as libkrunfw: it has the kernel as it lies in memory.
    Library,
    /// A vmlinux.
    Elf,
    /// A bzImage with a vmlinux that is compressed with bzip2.
    Bzip2,
    /// As [`Format::Bzip2`], with gzip.
    Gzip,
    /// As [`Format::Bzip2`], with zstd.
    Zstd,
}

/// How a vmlinux in a bzImage can be compressed, by its first bytes. Source: `decompress_method` of lib/decompress.c, and
/// what libkrun looks for (`load_external_kernel` of krun-vmm's builder.rs).
const COMPRESSIONS: [(&[u8], Result<Format, &str>); 7] = [
    (b"\x1f\x8b\x08", Ok(Format::Gzip)),
    (b"BZh", Ok(Format::Bzip2)),
    (b"\x28\xb5\x2f\xfd", Ok(Format::Zstd)),
    (b"\xfd7zXZ", Err("xz")),
    (b"\x5d\x00\x00", Err("lzma")),
    (b"\x89LZO", Err("lzo")),
    (b"\x02\x21\x4c\x18", Err("lz4")),
];

/// The most of a file that is looked at before a compressed vmlinux, and of a table of headers.
const MOST: usize = 1 << 20;

/// Reads what kind of kernel a file of this size is.
pub fn of(file: &File, size: u64) -> Result<Format, Problem> {
    let head = read(file, 0, 4096)?;
    match head.as_slice() {
        [0x7f, b'E', b'L', b'F', ..] => elf(file, &head, size),
        _ if word(&head, BOOT_FLAG) == Some(0xaa55) && bytes(&head, HEADER) == Some(*b"HdrS") => {
            bz_image(file, &head, size)
        }
        // Source: the headers of a kernel's Image, Documentation/arch/arm64/booting.rst, Documentation/arch/riscv/boot-image-header.rst.
        _ if bytes(&head, 56) == Some(*b"ARM\x64") => Err(Problem::Machine("aarch64".to_owned())),
        _ if bytes(&head, 56) == Some(*b"RSC\x05") => Err(Problem::Machine("riscv64".to_owned())),
        _ => Err(Problem::NoKernel),
    }
}

/// Source: elf(5). Offsets and values for 64 bits.
fn elf(file: &File, head: &[u8], size: u64) -> Result<Format, Problem> {
    const ET_EXEC: u16 = 2;
    const ET_DYN: u16 = 3;
    const EM_X86_64: u16 = 62;
    const EM_AARCH64: u16 = 183;
    const EM_RISCV: u16 = 243;

    match (bytes(head, 4), word(head, 18)) {
        (Some([2, 1]), Some(EM_X86_64)) => {}
        (Some([2, 1]), Some(EM_AARCH64)) => return Err(Problem::Machine("aarch64".to_owned())),
        (Some([2, 1]), Some(EM_RISCV)) => return Err(Problem::Machine("riscv64".to_owned())),
        (Some([2, 1]), Some(machine)) => return Err(Problem::Machine(format!("the ELF machine {machine}"))),
        (Some([_, 2]), _) => return Err(Problem::Machine("a big-endian machine".to_owned())),
        (Some([1, _]), _) => return Err(Problem::Machine("a 32-bit machine".to_owned())),
        _ => return Err(Problem::NoKernel),
    }
    let segments = segments(file, head)?;
    let ends = |s: &Segment| s.offset.checked_add(s.in_file);
    if segments.iter().any(|s| s.kind == PT_LOAD && ends(s).is_none_or(|end| end > size)) {
        return Err(Problem::Truncated);
    }
    match word(head, 16) {
        Some(ET_DYN) => library(file, &segments),
        Some(ET_EXEC) if is_vmlinux(long(head, 24), &segments) => Ok(Format::Elf),
        _ => Err(Problem::NoKernel),
    }
}

/// A program header.
struct Segment {
    kind: u32,
    offset: u64,
    virtual_address: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;

fn segments(file: &File, head: &[u8]) -> Result<Vec<Segment>, Problem> {
    const SIZE: u16 = 56;
    let (offset, count) = (long(head, 32).unwrap_or(0), word(head, 56).unwrap_or(0));
    if word(head, 54) != Some(SIZE) {
        return Err(Problem::NoKernel);
    }
    let table = read(file, offset, usize::from(count) * usize::from(SIZE))?;
    let segment = |header: &[u8]| {
        Some(Segment {
            kind: u32::from_le_bytes(bytes(header, 0)?),
            offset: long(header, 8)?,
            virtual_address: long(header, 16)?,
            address: long(header, 24)?,
            in_file: long(header, 32)?,
            in_memory: long(header, 40)?,
        })
    };
    table.chunks(SIZE.into()).map(segment).collect::<Option<_>>().ok_or(Problem::NoKernel)
}

/// Whether it is linked into the upper half of the addresses, and begins at one where the VM's memory is: no program is.
fn is_vmlinux(entry: Option<u64>, segments: &[Segment]) -> bool {
    let mut loaded = segments.iter().filter(|segment| segment.kind == PT_LOAD);
    let begins_in = |s: &Segment| {
        entry.is_some_and(|entry| (s.address..s.address.saturating_add(s.in_memory)).contains(&entry))
    };
    loaded.clone().any(begins_in) && loaded.next().is_some_and(|first| first.virtual_address >> 63 == 1)
}

/// Whether it has libkrunfw's name, which libkrun loads it by.
fn library(file: &File, segments: &[Segment]) -> Result<Format, Problem> {
    const DT_STRTAB: u64 = 5;
    const DT_SONAME: u64 = 14;
    const ENTRY: usize = 16;
    const LONGEST: usize = 64;

    let dynamic = segments.iter().find(|segment| segment.kind == PT_DYNAMIC).ok_or(Problem::NoKernel)?;
    let dynamic = read(file, dynamic.offset, usize::try_from(dynamic.in_file).unwrap_or(MOST))?;
    let value = |tag| {
        let entry = dynamic.chunks_exact(ENTRY).find(|entry| long(entry, 0) == Some(tag))?;
        long(entry, 8)
    };
    let soname = || {
        let address = value(DT_STRTAB)?.checked_add(value(DT_SONAME)?)?;
        let holds = |s: &&Segment| s.kind == PT_LOAD && address.wrapping_sub(s.virtual_address) < s.in_file;
        let segment = segments.iter().find(holds)?;
        segment.offset.checked_add(address - segment.virtual_address)
    };
    let name = read(file, soname().ok_or(Problem::NoKernel)?, LONGEST)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    match name == LIBKRUNFW.as_bytes() {
        true => Ok(Format::Library),
        false => Err(Problem::Library(String::from_utf8_lossy(name).into_owned())),
    }
}

/// Offsets of a bzImage's header. Source: Documentation/arch/x86/boot.rst.
const SETUP_SECTORS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const HEADER: usize = 0x202;
const VERSION: usize = 0x206;
const FLAGS: usize = 0x236;
const PAYLOAD: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

fn bz_image(file: &File, head: &[u8], size: u64) -> Result<Format, Problem> {
    /// The first version of the header with [`FLAGS`].
    const WITH_FLAGS: u16 = 0x20c;
    const XLF_KERNEL_64: u16 = 1;
    const SECTOR: usize = 512;

    let is_64_bit = word(head, VERSION) >= Some(WITH_FLAGS)
        && word(head, FLAGS).is_some_and(|flags| flags & XLF_KERNEL_64 != 0);
    if !is_64_bit {
        return Err(Problem::Machine("a 32-bit machine".to_owned()));
    }
    let sectors = match bytes::<1>(head, SETUP_SECTORS) {
        Some([0]) | None => 4,
        Some([sectors]) => usize::from(sectors),
    };
    let payload = u32::from_le_bytes(bytes(head, PAYLOAD).ok_or(Problem::NoKernel)?);
    let start = (sectors + 1) * SECTOR + payload as usize;
    if start > MOST {
        return Err(Problem::NoKernel);
    }
    let length = u32::from_le_bytes(bytes(head, PAYLOAD_LENGTH).ok_or(Problem::NoKernel)?);
    if start as u64 + u64::from(length) > size {
        return Err(Problem::Truncated);
    }
    let before = read(file, 0, start + 8)?;
    let at = before.get(start..).unwrap_or_default();
    let known = COMPRESSIONS.iter().find(|(magic, _)| at.starts_with(magic)).ok_or(Problem::NoKernel)?;
    let format = known.1.map_err(Problem::Compression)?;
    // libkrun does not read the header: it takes the first such bytes of the file.
    match before.windows(known.0.len()).position(|window| window == known.0) == Some(start) {
        true => Ok(format),
        false => Err(Problem::Hidden),
    }
}

/// Reads at most `length` bytes, and [`MOST`].
fn read(file: &File, offset: u64, length: usize) -> Result<Vec<u8>, Problem> {
    let mut buffer = vec![0; length.min(MOST)];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset.saturating_add(filled as u64))? {
            0 => break,
            count => filled += count,
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

fn bytes<const N: usize>(data: &[u8], offset: usize) -> Option<[u8; N]> {
    data.get(offset..)?.first_chunk().copied()
}

fn word(data: &[u8], offset: usize) -> Option<u16> {
    bytes(data, offset).map(u16::from_le_bytes)
}

fn long(data: &[u8], offset: usize) -> Option<u64> {
    bytes(data, offset).map(u64::from_le_bytes)
}
