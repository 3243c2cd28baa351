//! A vmm that nobody waits for. Source: sched(7), `SCHED_IDLE`.

use anyhow::Result;
use nix::errno::Errno;

/// Leaves the CPU to every other process that wants it; the threads of this one will, too. Who needs the VM turns that off.
pub fn become_idle() -> Result<()> {
    // SAFETY: sched_param is plain data; this policy wants 0 as the priority.
    let parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: a valid sched_param; 0 is this process.
    Errno::result(unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter) })?;
    Ok(())
}
