//! The ways into this executable: containerd's short calls (`start`, `delete`, `-info`) and the server of one sandbox.
//!
//! A new dialect of containerd's belongs in [`start`], a new feature that containerd asks for in [`info`].

mod abandoned;
mod address;
pub mod delete;
pub mod info;
mod pid_file;
pub mod server;
pub mod start;
