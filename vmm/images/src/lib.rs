//! Images of containers: pulled from a registry or imported from a file, unpacked once, and kept for `krunctl`.
//!
//! A registry, an archive and all that they name are hostile. Their bytes count only once their digest is right, and no more
//! of them are read than was declared and allowed. A layer is unpacked by root, but never outside its directory.

mod config;
mod digest;
mod error;
mod import;
mod limits;
mod manifest;
mod pull;
mod store;
#[cfg(test)]
mod testing;
mod unpack;

pub use config::ImageConfig;
pub use digest::Digest;
pub use error::{Error, Result};
pub use limits::{DEFAULT_UNPACKED, MAX_DOCUMENT, MAX_ENTRIES, MAX_LAYERS};
pub use pull::{Credentials, Progress, PullOptions};
pub use store::{DEFAULT_PATH, Image, Layer, Record, Removed, Store};
