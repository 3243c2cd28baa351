//! libkrunfw's kernel in the other shapes that a kernel comes in.

use anyhow::{Context, Result, ensure};
use std::ffi::{CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where a kernel is linked to. Source: `__START_KERNEL_map` of arch/x86/include/asm/page_64_types.h.
const LINKED_AT: u64 = 0xffff_ffff_8000_0000;

/// The library's kernel as an ELF file with one segment.
pub fn vmlinux(library: &Path) -> Result<Vec<u8>> {
    const HEADERS: usize = 4096;
    let (image, address, entry) = kernel(library)?;
    let size = (image.len() as u64).to_le_bytes();
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(HEADERS, 0);
    // Source: elf(5): type EXEC, machine x86_64, version, entry, the program headers' offset, size and number.
    let halves: [(usize, u16); 5] = [(16, 2), (18, 62), (52, 64), (54, 56), (56, 1)];
    for (at, value) in halves {
        file[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    file[20] = 1;
    // Then one: LOAD, flags, offset, virtual and physical address, sizes, alignment.
    file[64] = 1;
    file[68] = 7;
    let longs =
        [(24, entry), (32, 64), (72, HEADERS as u64), (80, LINKED_AT + address), (88, address), (112, 4096)];
    for (at, value) in longs {
        file[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
    }
    file[96..104].copy_from_slice(&size);
    file[104..112].copy_from_slice(&size);
    file.extend_from_slice(image);
    Ok(file)
}

/// A bzImage with this payload and without the code that would unpack it, which no VM runs.
pub fn bz_image(payload: &[u8]) -> Vec<u8> {
    const SETUP: usize = 1024;
    let mut file = vec![0; SETUP];
    // Source: Documentation/arch/x86/boot.rst: sectors of setup, flag, magic, version, a 64-bit kernel, where the payload is.
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    file[0x236] = 1;
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend_from_slice(payload);
    file
}

/// The image in the library, the guest address that it is loaded at, and where it begins.
fn kernel(library: &Path) -> Result<(&'static [u8], u64, u64)> {
    type GetKernel = unsafe extern "C" fn(*mut u64, *mut u64, *mut usize) -> *mut c_char;
    let path = CString::new(library.as_os_str().as_bytes())?;
    // SAFETY: strings; the library holds data, has no constructors, and is never closed.
    let symbol: *mut c_void = unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        ensure!(!handle.is_null(), "cannot load {}", library.display());
        libc::dlsym(handle, c"krunfw_get_kernel".as_ptr())
    };
    ensure!(!symbol.is_null(), "{} has no krunfw_get_kernel", library.display());
    // SAFETY: libkrunfw 5 declares it so.
    let get_kernel: GetKernel = unsafe { std::mem::transmute(symbol) };
    let (mut address, mut entry, mut size) = (0, 0, 0);
    // SAFETY: three places to write to.
    let image = unsafe { get_kernel(&mut address, &mut entry, &mut size) };
    let image = std::ptr::NonNull::new(image).context("it has no kernel")?;
    // SAFETY: the library has an image of this size, for good.
    Ok((unsafe { std::slice::from_raw_parts(image.as_ptr().cast(), size) }, address, entry))
}
