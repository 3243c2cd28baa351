//! Places the guest's memory in this process so that the host can back it with huge pages.
//!
//! KVM maps 2 MiB at a time into the guest only where the guest's address and ours are equal modulo 2 MiB. libkrun maps
//! guest memory at addresses that the kernel chooses, and the part after the guest's kernel starts at a guest address that
//! is not a multiple of 2 MiB. Then every 4 KiB page faults by itself: ten thousand exits per boot. libkrun does not take
//! an address, so this module replaces `mmap` for the calls of vm-memory, and passes all others on.

use std::{
    collections::VecDeque,
    ffi::{c_int, c_void},
    ptr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use libc::{MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, off_t, size_t};

/// A huge page of x86-64, in bytes.
const HUGE: usize = 2 << 20;

/// The flags with which vm-memory maps guest memory. Source: `GuestMemoryMmap::from_ranges`, 0.17.
const GUEST_MEMORY: c_int = MAP_ANONYMOUS | MAP_NORESERVE | MAP_PRIVATE;

/// The guest addresses of the next mappings.
static COMING: Mutex<VecDeque<u64>> = Mutex::new(VecDeque::new());

/// Sets the guest addresses of the next mappings of guest memory, in order: 0; the end of the guest's kernel, if libkrun
/// maps it from a library; and 4 GiB, if the guest's memory reaches it. Source: krun-arch, `arch_memory_regions`.
pub fn expect(kernel_end: Option<u64>) {
    *coming() = [Some(0), kernel_end, Some(1 << 32)].into_iter().flatten().collect();
}

fn coming() -> MutexGuard<'static, VecDeque<u64>> {
    COMING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replaces the C library's `mmap`: it aligns guest memory for huge pages, and does no more than mmap(2) otherwise.
///
/// # Safety
/// As mmap(2).
// SAFETY: it keeps the contract of the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    if address.is_null()
        && flags == GUEST_MEMORY
        && length >= HUGE
        && let Some(guest) = coming().pop_front()
    {
        // SAFETY: a new mapping of anonymous memory.
        let mapped = unsafe { congruent(guest as usize % HUGE, length, protection) };
        if mapped != MAP_FAILED {
            return mapped;
        }
    }
    // SAFETY: the caller's promise.
    unsafe { libc::mmap64(address, length, protection, flags, fd, offset) }
}

/// Maps memory at an address that is `residue` modulo [`HUGE`].
///
/// # Safety
/// As mmap(2) of new anonymous memory; `residue` is a multiple of the page size.
unsafe fn congruent(residue: usize, length: usize, protection: c_int) -> *mut c_void {
    // SAFETY: a new mapping.
    let space = unsafe { libc::mmap64(ptr::null_mut(), length + HUGE, libc::PROT_NONE, GUEST_MEMORY, -1, 0) };
    if space == MAP_FAILED {
        return MAP_FAILED;
    }
    let before = (residue + HUGE - space as usize % HUGE) % HUGE;
    // SAFETY: all within `space`, which is ours; what is cut off was never used.
    unsafe {
        let start = space.byte_add(before);
        let mapped = libc::mmap64(start, length, protection, GUEST_MEMORY | MAP_FIXED, -1, 0);
        if mapped == MAP_FAILED {
            libc::munmap(space, length + HUGE);
            return MAP_FAILED;
        }
        if before > 0 {
            libc::munmap(space, before);
        }
        let end = start.byte_add(length);
        if before < HUGE {
            libc::munmap(end, HUGE - before);
        }
        // For hosts whose default is `madvise`. A host without huge pages refuses, which does no harm.
        libc::madvise(mapped, length, libc::MADV_HUGEPAGE);
        mapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_agrees_with_the_guests_addresses() {
        expect(Some(0x0246_1000));
        let lengths = [16 << 20, 128 << 20, 8 << 20];
        let residues = lengths.map(|length| {
            // SAFETY: new anonymous memory, through the symbol that vm-memory calls.
            let mapped = unsafe {
                libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, GUEST_MEMORY, -1, 0)
            };
            assert_ne!(mapped, MAP_FAILED);
            // SAFETY: the mapping's first and last byte, and its end.
            unsafe {
                mapped.cast::<u8>().write(1);
                mapped.cast::<u8>().byte_add(length - 1).write(1);
                assert_eq!(libc::munmap(mapped, length), 0);
            }
            mapped as usize % HUGE
        });
        assert_eq!(residues, [0, 0x6_1000, 0]);
    }
}
