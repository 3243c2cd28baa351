//! Whether the kernel has a Landlock that is of use.

/// The first version that lets files move between directories. Source: Documentation/userspace-api/landlock.rst.
const OLDEST: i64 = 2;

/// `LANDLOCK_CREATE_RULESET_VERSION` of linux/landlock.h.
const ASK_VERSION: u32 = 1;

/// Whether the kernel has a Landlock that is new enough.
pub fn available() -> bool {
    version() >= OLDEST
}

/// The kernel's version of Landlock, or less than 1 where it has none.
fn version() -> i64 {
    // SAFETY: with this flag the call takes no structure, and only answers.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, ASK_VERSION) }
}
