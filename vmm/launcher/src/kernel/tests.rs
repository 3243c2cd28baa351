use std::{fs, os::unix::fs::PermissionsExt};

use nix::unistd::{Uid, mkfifo};

use super::*;

/// Puts numbers into a file.
fn put(file: &mut Vec<u8>, at: usize, data: &[u8]) {
    file.resize(file.len().max(at + data.len()), 0);
    file[at..at + data.len()].copy_from_slice(data);
}

/// An ELF file with one segment to load, from its beginning.
fn elf(kind: u16, machine: u16, entry: u64, virtual_address: u64) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    put(&mut file, 16, &kind.to_le_bytes());
    put(&mut file, 18, &machine.to_le_bytes());
    put(&mut file, 24, &entry.to_le_bytes());
    put(&mut file, 32, &64_u64.to_le_bytes());
    put(&mut file, 54, &[56, 0, 1, 0]);
    put(&mut file, 575, &[0]);
    put(&mut file, 64, &1_u32.to_le_bytes());
    for (at, value) in [(72, 0), (80, virtual_address), (88, 0x100_0000), (96, 512), (104, 512)] {
        put(&mut file, at, &u64::to_le_bytes(value));
    }
    file
}

/// A library with this SONAME.
fn library(soname: &str) -> Vec<u8> {
    let mut file = elf(3, 62, 0, 0);
    put(&mut file, 56, &[2, 0]);
    put(&mut file, 120, &2_u32.to_le_bytes());
    put(&mut file, 128, &256_u64.to_le_bytes());
    put(&mut file, 152, &48_u64.to_le_bytes());
    for (at, value) in [(256, 14), (264, 1), (272, 5), (280, 320)] {
        put(&mut file, at, &u64::to_le_bytes(value));
    }
    put(&mut file, 321, soname.as_bytes());
    put(&mut file, 400, &[0]);
    file
}

fn bz_image(version: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, 0x1f1, &[1]);
    put(&mut file, 0x1fe, &[0x55, 0xaa]);
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x206, &version.to_le_bytes());
    put(&mut file, 0x236, &flags.to_le_bytes());
    put(&mut file, 0x248, &100_u32.to_le_bytes());
    put(&mut file, 0x24c, &(payload.len() as u32).to_le_bytes());
    put(&mut file, 1024 + 100, payload);
    file
}

/// What comes of a file with this content that is the caller's alone.
fn open(content: &[u8]) -> Result<Format, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), content).unwrap();
    let kernel = Kernel::open_owned_by(file.path(), Uid::effective().as_raw());
    kernel.map(|kernel| kernel.format()).map_err(|error| error.problem.to_string())
}

#[test]
fn what_libkrun_boots_is_told_apart() {
    let upper = 0xffff_ffff_8100_0000;
    for (content, expected) in [
        (library("libkrunfw.so.5"), Format::Library),
        (elf(2, 62, 0x100_0000, upper), Format::Elf),
        (bz_image(0x20f, 1, b"\x1f\x8b\x08..."), Format::Gzip),
        (bz_image(0x20c, 3, b"BZh9"), Format::Bzip2),
        (bz_image(0x20f, 1, b"\x28\xb5\x2f\xfd"), Format::Zstd),
    ] {
        assert_eq!(open(&content), Ok(expected));
    }
}

#[test]
fn all_else_is_refused_with_what_is_allowed() {
    let mut hidden = bz_image(0x20f, 1, b"BZh9");
    put(&mut hidden, 0x300, b"BZh");
    let mut arm_image = vec![0; 64];
    put(&mut arm_image, 56, b"ARM\x64");
    let mut narrow = elf(2, 3, 0, 0);
    narrow[4] = 1;
    let upper = 0xffff_ffff_8100_0000;
    for (content, expected) in [
        (b"#!/bin/sh\n".to_vec(), "is no kernel: must be a libkrunfw.so.5, a vmlinux (ELF), or a bzImage"),
        (Vec::new(), "is no kernel"),
        (library("libc.so.6"), "is the library \"libc.so.6\": a library must have the SONAME libkrunfw.so.5"),
        (elf(3, 62, 0, 0), "is no kernel"),
        // A program: in the lower half, or without a beginning in memory.
        (elf(2, 62, 0x100_0000, 0x40_0000), "is no kernel"),
        (elf(2, 62, 0x40_0000, upper), "is no kernel"),
        (elf(2, 183, 0x100_0000, upper), "is for aarch64: must be for x86_64"),
        (elf(2, 22, 0, 0), "is for the ELF machine 22"),
        (narrow, "is for a 32-bit machine"),
        (arm_image, "is for aarch64"),
        (bz_image(0x20f, 0, b"BZh9"), "is for a 32-bit machine"),
        (bz_image(0x20a, 1, b"BZh9"), "is for a 32-bit machine"),
        (bz_image(0x20f, 1, b"\xfd7zXZ\0"), "is a bzImage compressed with xz"),
        (bz_image(0x20f, 1, b"nothing"), "is no kernel"),
        (bz_image(0x20f, 1, b""), "is no kernel"),
        (hidden, "is a bzImage whose kernel libkrun does not find"),
        (elf(2, 62, 0x100_0000, upper)[..60].to_vec(), "is no kernel"),
        (elf(2, 62, 0x100_0000, upper)[..500].to_vec(), "is truncated"),
        (library("libkrunfw.so.5")[..500].to_vec(), "is truncated"),
        (bz_image(0x20f, 1, b"BZh9")[..1126].to_vec(), "is truncated"),
    ] {
        let error = open(&content).unwrap_err();
        assert!(error.starts_with(expected), "{error}, not {expected}");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    for whole in [library("libkrunfw.so.5"), elf(2, 62, 0x100_0000, u64::MAX), bz_image(0x20f, 1, b"BZh9")] {
        for at in (16..whole.len().min(0x260)).step_by(5) {
            let mut content = whole.clone();
            content[at] = 0xff;
            // Whatever it is then, it neither panics nor needs much memory.
            let _ = open(&content);
            let _ = open(&whole[..at]);
        }
    }
}

#[test]
fn only_a_file_of_roots_alone_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let (me, path) = (Uid::effective().as_raw(), directory.path().join("kernel"));
    let refused = |path: &Path, owner| Kernel::open_owned_by(path, owner).unwrap_err().to_string();
    assert_eq!(refused(Path::new("kernel"), me), "kernel = kernel: must be an absolute path");
    assert!(refused(&path, me).ends_with("kernel: No such file or directory (os error 2)"));
    assert!(refused(directory.path(), me).ends_with("must be a regular file"));
    mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(refused(&path, me).ends_with("must be a regular file"));
    fs::remove_file(&path).unwrap();
    fs::write(&path, library("libkrunfw.so.5")).unwrap();
    assert!(refused(&path, me + 1).ends_with(&format!("belongs to uid {me}: must be root's")));
    for mode in [0o664, 0o646] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let expected = format!("has the mode {mode:04o}: nobody but root may write to it (chmod go-w)");
        assert!(refused(&path, me).ends_with(&expected));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(Kernel::open_owned_by(&path, me).unwrap().format(), Format::Library);
}

#[test]
fn nobody_can_write_through_what_a_vmm_gets() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), library("libkrunfw.so.5")).unwrap();
    let kernel = Kernel::open_owned_by(file.path(), 0).unwrap();
    let inherited = kernel.read_only().unwrap();
    let path = format!("/proc/self/fd/{}", inherited.as_raw_fd());
    assert_eq!(fs::read(&path).unwrap(), fs::read(file.path()).unwrap());
    let error = File::options().write(true).open(&path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
}
