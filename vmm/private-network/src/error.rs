//! What went wrong, as one sentence for people.

use std::{fmt::Display, io};

/// Says what was attempted, on what, and why it failed or what is needed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// What can fail here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(text: impl Into<String>) -> Error {
        Error(text.into())
    }

    /// For `map_err`: `what` was attempted.
    pub(crate) fn at<E: Display>(what: impl Display) -> impl FnOnce(E) -> Error {
        move |error| Error(format!("{what}: {error}"))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::other(error)
    }
}
