//! The task state machine: what may happen to a container and its execs, and in which order.
//!
//! It knows nothing of ttrpc, VMs or files. Its locks: `Tasks` holds the table only to look
//! things up; each process has a gate of its own, held while its state changes, so that a slow
//! create or start never holds up another container, nor a kill of the same one.

mod calls;
mod process;
mod tasks;

pub use process::{ProcessState, Status};
pub use tasks::Tasks;

#[cfg(test)]
pub mod tests;
