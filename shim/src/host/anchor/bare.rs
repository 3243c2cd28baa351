//! What an anchor is once it stands: a program of some instructions that waits for the end of the shim's socket. The shim's executable
//! would keep one and a half MiB in memory for that, in each container.

use std::{
    arch::global_asm,
    convert::Infallible,
    ffi::{CStr, CString},
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    slice,
};

use nix::{fcntl::AtFlags, unistd::execveat};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::Errno,
};

use super::ORDERS_FD;

/// Its name, for who lists processes.
const NAME: &CStr = c"krun-anchor";

// It takes its name (PR_SET_NAME is 15), reads until the end of file, again after a signal (EINTR is 4), and exits with 0. Nobody
// sends anything, so that the byte it reads to the top of its stack never comes. The numbers are of asm/unistd_64.h and linux/prctl.h.
global_asm!(
    ".pushsection .rodata.krun_anchor, \"a\"",
    "krun_anchor_begin:",
    "mov edi, 15",
    "lea rsi, [rip + 3f]",
    "mov eax, 157",
    "syscall",
    "2:",
    "mov edi, {socket}",
    "mov rsi, rsp",
    "mov edx, 1",
    "xor eax, eax",
    "syscall",
    "cmp rax, -4",
    "je 2b",
    "xor edi, edi",
    "mov eax, 231",
    "syscall",
    "3:",
    ".asciz \"krun-anchor\"",
    "krun_anchor_end:",
    ".popsection",
    socket = const ORDERS_FD,
);

// SAFETY: the labels of the program above.
unsafe extern "C" {
    static krun_anchor_begin: u8;
    static krun_anchor_end: u8;
}

/// Where it is loaded: where linkers load programs.
const ADDRESS: u64 = 0x40_0000;

/// Sizes of an ELF file's header, and of a program header. Source: elf(5).
const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
/// What comes before the code: the header, and two program headers.
const CODE: u64 = HEADER as u64 + 2 * PROGRAM_HEADER as u64;

/// Types and flags of program headers, the type of a file, and the machine. Source: elf.h.
const PT_LOAD: u32 = 1;
const PT_GNU_STACK: u32 = 0x6474_e551;
const EXECUTE: u32 = 1;
const WRITE: u32 = 2;
const READ: u32 = 4;
const ET_EXEC: u16 = 2;
const MACHINE: u16 = 62;

/// Becomes that program, as the anchor of `container`.
///
/// # Errors
/// When the kernel does not let memory be executed (`vm.memfd_noexec`); nothing has changed then.
#[expect(clippy::disallowed_methods, reason = "a descriptor with an empty path")]
pub fn become_bare(container: &str) -> io::Result<Infallible> {
    let make = |flags| memfd_create(NAME, MemfdFlags::CLOEXEC | flags);
    // A kernel before 6.3 knows no such flag, and needs none.
    let file = match make(MemfdFlags::EXEC) {
        Err(Errno::INVAL) => make(MemfdFlags::empty()),
        made => made,
    };
    let mut file = File::from(file?);
    file.write_all(&executable(code()))?;
    let arguments = [NAME.to_owned(), CString::new(container)?];
    Ok(execveat(file.as_fd(), c"", &arguments, &[] as &[CString], AtFlags::AT_EMPTY_PATH)?)
}

fn code() -> &'static [u8] {
    // SAFETY: labels around bytes that are never written.
    unsafe {
        let (begin, end) = (&raw const krun_anchor_begin, &raw const krun_anchor_end);
        slice::from_raw_parts(begin, end as usize - begin as usize)
    }
}

/// An ELF file that holds this code and nothing else.
fn executable(code: &[u8]) -> Vec<u8> {
    let size = CODE + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [ET_EXEC, MACHINE] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for word in [ADDRESS + CODE, HEADER.into(), 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [HEADER, PROGRAM_HEADER, 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for (kind, flags, address, size) in [
        (PT_LOAD, READ | EXECUTE, ADDRESS, size),
        // A stack that cannot be executed.
        (PT_GNU_STACK, READ | WRITE, 0, 0),
    ] {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        // Offset, virtual and physical address, size in the file and in memory, alignment.
        for word in [0, address, address, size, size, 0x1000] {
            file.extend(word.to_le_bytes());
        }
    }
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixStream,
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn it_waits_for_the_end_of_its_socket_and_is_small() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("anchor");
        std::fs::write(&path, executable(code())).unwrap();
        // By another process: children of other tests would hold the file open for writing, and nobody could execute it.
        let copy = directory.path().join("copy");
        assert!(Command::new("install").args(["-m", "700"]).args([&path, &copy]).status().unwrap().success());
        let (ours, theirs) = UnixStream::pair().unwrap();
        let script = format!("exec {} {ORDERS_FD}<&0 </dev/null", copy.display());
        let stdin = Stdio::from(std::os::fd::OwnedFd::from(theirs));
        let mut child = Command::new("/bin/sh").args(["-c", &script]).stdin(stdin).spawn().unwrap();
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap();
        let begun = Instant::now();
        while read("comm") != "krun-anchor\n" {
            assert!(begun.elapsed() < Duration::from_secs(60), "it is {:?}", read("comm"));
            std::thread::yield_now();
        }
        let rollup = read("smaps_rollup");
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        let kib: u32 = pss.trim().trim_end_matches("kB").trim().parse().unwrap();
        assert!(kib <= 64, "{rollup}");
        assert!(child.try_wait().unwrap().is_none());
        drop(ours);
        assert!(child.wait().unwrap().success());
    }
}
