//! What can fail, on what, and what is allowed.

use std::{io, path::PathBuf};

use crate::{
    Digest,
    limits::{MAX_DEPTH, MAX_DOCUMENT, MAX_ENTRIES, MAX_LAYERS},
};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image is not there, or not used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the store, of an archive, or of this machine.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, and on which path.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The store's directory belongs to somebody else, or others may write there.
    #[error("the store {}: {why}; it must be a directory of this user's with mode 0700", path.display())]
    Store {
        /// The directory.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// A reference that cannot be read.
    #[error(
        "the reference {reference:?}: {why}; a reference is like alpine, alpine:3.20 or registry.example/team/app@sha256:…"
    )]
    Reference {
        /// What was given.
        reference: String,
        /// What is wrong with it.
        why: String,
    },
    /// A digest that is not `sha256:` and 64 hexadecimal digits.
    #[error("the digest {0:?}: it must be sha256: and 64 digits of 0-9 and a-f")]
    Digest(String),
    /// Bytes that are not those that were asked for.
    #[error("{what}: its digest is {found}, not {wanted} as declared")]
    Mismatch {
        /// Which document or layer.
        what: String,
        /// What was declared.
        wanted: Digest,
        /// What the bytes have.
        found: Digest,
    },
    /// More bytes than were declared or allowed.
    #[error("{what}: longer than the {allowed} bytes that were declared or are allowed")]
    TooLong {
        /// Which document or layer.
        what: String,
        /// How many bytes may come.
        allowed: u64,
    },
    /// Fewer bytes than were declared.
    #[error("{what}: it ended after {found} of the {wanted} bytes that were declared")]
    Truncated {
        /// Which document or layer.
        what: String,
        /// How many bytes were declared.
        wanted: u64,
        /// How many came.
        found: u64,
    },
    /// An image that unpacks to more than the caller allows.
    #[error("the image: more than {allowed} bytes when unpacked; no more are allowed")]
    TooBig {
        /// How many bytes the caller allows.
        allowed: u64,
    },
    /// An image with too many files.
    #[error("the image: more than {MAX_ENTRIES} files and directories; no more are allowed")]
    TooManyEntries,
    /// An image with too many layers.
    #[error("the image: {0} layers; at most {MAX_LAYERS} are allowed")]
    TooManyLayers(usize),
    /// A manifest, index or configuration that cannot be used.
    #[error("{what}: {why}")]
    Document {
        /// Which document.
        what: String,
        /// What is wrong with it, and what is allowed.
        why: String,
    },
    /// A document declared longer than any may be.
    #[error("{what}: declared with {size} bytes; at most {MAX_DOCUMENT} are allowed")]
    DocumentSize {
        /// Which document.
        what: String,
        /// The declared size.
        size: u64,
    },
    /// No image for this machine.
    #[error("{what}: no image for linux/amd64 in it, only for: {found}")]
    Platform {
        /// Which document.
        what: String,
        /// The platforms that it has.
        found: String,
    },
    /// An entry of a layer that must not be unpacked, or cannot be.
    #[error("entry {entry:?} of a layer: {why}")]
    Entry {
        /// The entry's name.
        entry: String,
        /// What is wrong, and what is allowed.
        why: EntryError,
    },
    /// A layer that is no tar archive.
    #[error("a layer: {0}")]
    Tar(io::Error),
    /// The registry wants (other) credentials.
    #[error(
        "{registry}: access to {repository} denied{}; log in with `docker login {registry}`, or check the name",
        if *.with_credentials { " to the user whose credentials were sent" } else { ": no credentials were sent" }
    )]
    Denied {
        /// The registry's host.
        registry: String,
        /// The repository there.
        repository: String,
        /// Whether credentials were sent.
        with_credentials: bool,
    },
    /// The registry does not have it.
    #[error("{registry}: {what} is not there (404)")]
    NotFound {
        /// The registry's host.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// The registry answers too many requests for its taste.
    #[error("{registry}: too many requests (429), also after {tries} tries; {}",
        match .retry_after { Some(seconds) => format!("it says to wait {seconds} s"), None => "try again later, or log in".into() })]
    TooManyRequests {
        /// The registry's host.
        registry: String,
        /// How often it was asked.
        tries: u32,
        /// How long it says to wait, in seconds.
        retry_after: Option<u64>,
    },
    /// Any other answer that is no success.
    #[error("{registry}: {what}: the answer was {status} after {tries} tries")]
    Status {
        /// The registry's host.
        registry: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// How often it was asked.
        tries: u32,
    },
    /// No answer, or one that stopped.
    #[error("{registry}: {what}: {why}")]
    Transport {
        /// The registry's host.
        registry: String,
        /// What was asked for.
        what: String,
        /// What happened.
        why: String,
    },
    /// Credentials that cannot be read.
    #[error("credentials for {registry}: {why}")]
    Credentials {
        /// The registry's host.
        registry: String,
        /// What is wrong.
        why: String,
    },
    /// A file that is no image.
    #[error("{}: {why}; allowed are an archive of `docker save`, and an OCI image layout as a directory or an archive", path.display())]
    NoImage {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What is wrong with an entry of a layer.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// It starts at the root of the machine.
    #[error("an absolute name; names are relative to the layer")]
    Absolute,
    /// It has a component `..`.
    #[error("a name with \"..\"; names lead down only")]
    Dots,
    /// It has a byte that no name can have.
    #[error("a name with a NUL byte, which no name can have")]
    Nul,
    /// It has too many components.
    #[error("more than {MAX_DEPTH} directories deep; no more are allowed")]
    Deep,
    /// A directory on the way is a symbolic link.
    #[error("its name passes through a symbolic link of the same layer; only directories are passed through")]
    Link,
    /// A directory on the way is something else.
    #[error("its name passes through what is no directory; only directories are passed through")]
    NotDirectory,
    /// The layer's own top directory can only be a directory.
    #[error("it is the layer's top directory, which can only be a directory")]
    Top,
    /// A directory of the same layer has that name.
    #[error("a directory of the same layer has that name; only another directory can be added to it")]
    Replaces,
    /// A whiteout without a name.
    #[error("a whiteout of nothing; .wh. is followed by a name")]
    Whiteout,
    /// An owner that the kernel does not know.
    #[error("owner {0}; owners are at most 4294967294")]
    Owner(u64),
    /// A type that is not unpacked.
    #[error("type {0:?}; files, directories, links, devices and FIFOs are allowed")]
    Kind(char),
    /// Headers that do not make sense.
    #[error("{0}")]
    Header(&'static str),
    /// The system refused it.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<rustix::io::Errno> for EntryError {
    fn from(errno: rustix::io::Errno) -> Self {
        EntryError::Io(errno.into())
    }
}

impl Error {
    /// For `map_err`: what was attempted when the system refused.
    pub(crate) fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        move |source| Error::of(what.into(), source.into())
    }

    /// An error that went through a reader comes out as it was.
    fn of(what: String, source: io::Error) -> Error {
        match source.downcast::<Error>() {
            Ok(own) => own,
            Err(source) => Error::Io { what, source },
        }
    }

    /// For `map_err`: what the reader of a layer says.
    pub(crate) fn tar(source: io::Error) -> Error {
        source.downcast::<Error>().unwrap_or_else(Error::Tar)
    }
}
