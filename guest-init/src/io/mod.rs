//! A process's stdin, stdout and stderr: pipes and terminals on one side, streams to the host on the other. RPC: Resize.

pub mod console;
pub mod poll;
pub mod pump;
pub mod stdio;
pub mod terminal;
