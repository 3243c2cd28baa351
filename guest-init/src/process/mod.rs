//! Processes of containers: making them in forks of PID 1, and their lives up to the exit record. RPCs: Exec, DeleteExec,
//! Wait, Signal.

pub mod enter;
pub mod env;
pub mod exec;
pub mod executor;
pub mod fork;
pub mod life;
pub mod limits;
pub mod lookup;
pub mod reaper;
pub mod trace;

use guest_protocol::mux::Mux;

pub use life::Process;
use reaper::Reaper;

/// What PID 1 has once, and every process of a container needs.
#[derive(Clone)]
pub struct Supervisor {
    /// Learns of its end.
    pub reaper: Reaper,
    /// Carries its stdio.
    pub mux: Mux,
}
