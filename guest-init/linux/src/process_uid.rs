//! A user for each process: what the kernel counts for a user, it counts for that process alone.

/// The user of the process with pid 0, if there were one. A pid is less than 2^22 (proc_sys_kernel(5), `pid_max`). systemd's
/// "Users, Groups, UIDs and GIDs" leaves ids from 2^31 on unused.
const FIRST: u32 = 0xf000_0000;

/// The uid of the process that the host calls `pid`. Nobody else has it.
pub const fn of(pid: u32) -> u32 {
    FIRST + pid
}
