//! The parts of a VM that are files of the host: libkrunfw, which contains the guest's kernel, and guest-init. Both stay
//! mapped as long as the process lives.

use std::{
    ffi::{CStr, CString, NulError, c_char, c_void},
    fs::File,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    ptr::NonNull,
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap};

use crate::find::LIBKRUNFW;

/// Why a file cannot be the library that contains the guest's kernel.
#[derive(Debug, thiserror::Error)]
pub enum BadLibrary {
    /// Its path has a zero byte.
    #[error("loading libkrunfw: {0}")]
    Zero(#[from] NulError),
    /// The dynamic loader cannot load it; its words.
    #[error("loading libkrunfw: {0}")]
    Load(String),
    /// It is another library.
    #[error("{} is not {LIBKRUNFW}: its SONAME is another", .0.display())]
    Another(PathBuf),
    /// It lacks the function that returns the kernel; the dynamic loader's words.
    #[error("krunfw_get_kernel: {0}")]
    NoFunction(String),
    /// It has no kernel.
    #[error("krunfw_get_kernel returned no kernel")]
    NoKernel,
    /// Its kernel does not say which version it is.
    #[error("libkrunfw's kernel has no version")]
    NoVersion,
}

/// Why a file cannot be PID 1 of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadProgram {
    /// It is no executable, or one for 32 bits.
    #[error("it is not a 64-bit ELF file")]
    NotElf,
    /// It is for another kind of CPU.
    #[error("it is not for x86_64")]
    Machine,
    /// The guest has no dynamic loader.
    #[error("it is not static: it needs a dynamic loader")]
    Dynamic,
    /// It ends before its headers do.
    #[error("it is truncated")]
    Truncated,
}

/// Fails with `problem` unless `good`.
fn ensure<E>(good: bool, problem: impl FnOnce() -> E) -> Result<(), E> {
    if good { Ok(()) } else { Err(problem()) }
}

/// The loaded library that contains the guest's kernel.
pub struct Libkrunfw(NonNull<c_void>);

impl Libkrunfw {
    /// Loads the library. libkrun loads it by name later, in the jail, which has no such file; the dynamic loader then
    /// finds that it is already loaded.
    ///
    /// # Errors
    /// When it cannot be loaded, or is another library.
    pub fn load(path: &Path) -> Result<Self, BadLibrary> {
        let c_path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: a string; the library holds data and has no constructors.
        let handle = NonNull::new(unsafe { libc::dlopen(c_path.as_ptr(), libc::RTLD_NOW) });
        let handle = handle.ok_or_else(|| BadLibrary::Load(dl_error()))?;
        let name = CString::new(LIBKRUNFW)?;
        // SAFETY: a string; with RTLD_NOLOAD nothing is loaded.
        let by_name = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
        ensure(!by_name.is_null(), || BadLibrary::Another(path.to_owned()))?;
        Ok(Libkrunfw(handle))
    }

    /// The version of the kernel, as `uname -r` shows it.
    ///
    /// # Errors
    /// When the library has no kernel, or a kernel without a version.
    pub fn kernel_version(&self) -> Result<String, BadLibrary> {
        version(self.kernel()?.image).ok_or(BadLibrary::NoVersion)
    }

    /// The guest address of the kernel's end.
    ///
    /// # Errors
    /// When the library has no kernel.
    pub fn kernel_end(&self) -> Result<u64, BadLibrary> {
        let kernel = self.kernel()?;
        Ok(kernel.load + kernel.image.len() as u64)
    }

    fn kernel(&self) -> Result<Kernel, BadLibrary> {
        // SAFETY: a handle of dlopen, and a string.
        let symbol = unsafe { libc::dlsym(self.0.as_ptr(), c"krunfw_get_kernel".as_ptr()) };
        ensure(!symbol.is_null(), || BadLibrary::NoFunction(dl_error()))?;
        type GetKernel = unsafe extern "C" fn(*mut u64, *mut u64, *mut usize) -> *mut c_char;
        // SAFETY: libkrunfw 5 declares it so (libkrun calls it with this type).
        let get_kernel: GetKernel = unsafe { std::mem::transmute(symbol) };
        let (mut load, mut entry, mut size) = (0, 0, 0);
        // SAFETY: three places to write to.
        let image = unsafe { get_kernel(&mut load, &mut entry, &mut size) };
        ensure(!image.is_null(), || BadLibrary::NoKernel)?;
        // SAFETY: the library holds an image of this size, for as long as it is loaded.
        let image = unsafe { std::slice::from_raw_parts(image.cast(), size) };
        Ok(Kernel { image, load })
    }
}

/// A guest's kernel in the library.
struct Kernel {
    image: &'static [u8],
    /// The guest address that it is loaded at.
    load: u64,
}

fn dl_error() -> String {
    // SAFETY: dlerror returns null or a string that is valid until the next dl call of this thread.
    let error = unsafe { libc::dlerror() };
    if error.is_null() {
        return "unknown error".to_owned();
    }
    // SAFETY: as above; it is copied before any other dl call.
    unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned()
}

/// Finds the kernel's banner, "Linux version 6.12.91 (…", in its image.
fn version(image: &[u8]) -> Option<String> {
    let banner: &[u8] = b"Linux version ";
    // memmem is fast: the image has tens of megabytes.
    let mut rest = image;
    loop {
        // SAFETY: both are valid for their lengths.
        let found =
            unsafe { libc::memmem(rest.as_ptr().cast(), rest.len(), banner.as_ptr().cast(), banner.len()) };
        let offset = NonNull::new(found)?.as_ptr() as usize - rest.as_ptr() as usize;
        rest = &rest[offset + banner.len()..];
        let version: Vec<u8> = rest.iter().copied().take_while(u8::is_ascii_graphic).take(64).collect();
        // The kernel's other mention is a format, "Linux version %s".
        if version.first().is_some_and(u8::is_ascii_digit) {
            return String::from_utf8(version).ok();
        }
    }
}

/// Maps a file as long as the process lives. All vmms share its pages.
///
/// # Errors
/// When it cannot be read, or is empty.
pub fn map_file(path: &Path) -> io::Result<&'static [u8]> {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let Some(mapped) = std::num::NonZero::new(length) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty"));
    };
    // SAFETY: a new private read-only mapping, at an address of the kernel's choice.
    let address = unsafe { mmap(None, mapped, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, &file, 0) }?;
    // SAFETY: mapped for `length` bytes and never unmapped. Executables are replaced, not written.
    Ok(unsafe { std::slice::from_raw_parts(address.as_ptr().cast(), length) })
}

/// Checks that an executable is static: the guest has no other file.
///
/// # Errors
/// The problem.
pub fn check_static(program: &[u8]) -> Result<(), BadProgram> {
    // Offsets and values for 64 bits. Source: elf(5).
    const MACHINE: usize = 18;
    const EM_X86_64: u16 = 62;
    const PROGRAM_HEADERS: usize = 32;
    const PROGRAM_HEADER_SIZE: usize = 54;
    const PROGRAM_HEADER_COUNT: usize = 56;
    const PT_INTERP: u32 = 3;

    let half = |offset| bytes(program, offset).map(u16::from_le_bytes);
    ensure(program.starts_with(b"\x7fELF\x02\x01"), || BadProgram::NotElf)?;
    ensure(half(MACHINE)? == EM_X86_64, || BadProgram::Machine)?;
    let headers = usize::try_from(u64::from_le_bytes(bytes(program, PROGRAM_HEADERS)?)).unwrap_or(usize::MAX);
    let (size, count) = (usize::from(half(PROGRAM_HEADER_SIZE)?), usize::from(half(PROGRAM_HEADER_COUNT)?));
    for number in 0..count {
        let kind = u32::from_le_bytes(bytes(program, headers.saturating_add(number * size))?);
        ensure(kind != PT_INTERP, || BadProgram::Dynamic)?;
    }
    Ok(())
}

fn bytes<const N: usize>(program: &[u8], offset: usize) -> Result<[u8; N], BadProgram> {
    let found = program.get(offset..).and_then(|rest| rest.first_chunk());
    found.copied().ok_or(BadProgram::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_comes_from_the_banner_and_not_from_the_format_string() {
        let image = b"..Linux version %s (%s)..Linux version 6.12.91 (root@x) #1..";
        assert_eq!(version(image).as_deref(), Some("6.12.91"));
        assert_eq!(version(b"no banner"), None);
    }

    #[test]
    fn a_dynamic_program_is_told_apart() {
        let dynamic = map_file(Path::new("/bin/sh")).unwrap();
        assert_eq!(check_static(dynamic), Err(BadProgram::Dynamic));
        assert_eq!(check_static(b"#!/bin/sh\n"), Err(BadProgram::NotElf));
        assert_eq!(check_static(&dynamic[..40]), Err(BadProgram::Truncated));
    }

    #[test]
    fn a_library_that_is_not_libkrunfw_is_refused() {
        assert!(Libkrunfw::load(Path::new("/etc/passwd")).is_err());
        let libc = "/lib/x86_64-linux-gnu/libc.so.6";
        if Path::new(libc).exists() {
            let error = Libkrunfw::load(Path::new(libc)).err().unwrap();
            assert!(matches!(error, BadLibrary::Another(_)), "{error}");
        }
    }
}
