//! Why a connection ended that did not end well.

use std::io;

use super::{MAX_PAYLOAD, WINDOW};

/// What ended a connection.
#[derive(Debug, thiserror::Error)]
pub enum MuxError {
    /// The peer broke the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The transport failed, or ended in the middle of a frame.
    #[error(transparent)]
    Transport(#[from] io::Error),
    /// The peer does not read what it is sent.
    #[error("the peer does not read: {0} streams have something for it")]
    Unread(usize),
}

/// How a peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// No frame has this kind.
    #[error("a frame of kind {0}")]
    Kind(u8),
    /// A data frame without data.
    #[error("stream {0}: a data frame without data")]
    NoData(u32),
    /// A data frame with too much data.
    #[error("stream {stream}: a data frame of {length} bytes; {MAX_PAYLOAD} are allowed")]
    Length {
        /// The stream.
        stream: u32,
        /// What its header says.
        length: u32,
    },
    /// More data than credit.
    #[error("stream {0}: more data than the {WINDOW} bytes of its window")]
    Window(u32),
    /// Data after the end of file.
    #[error("stream {0}: data after the end of file")]
    AfterEnd(u32),
    /// A credit frame that grants nothing.
    #[error("stream {0}: a credit frame without credit")]
    NoCredit(u32),
    /// More credit than data was sent.
    #[error("stream {0}: credit beyond the {WINDOW} bytes of its window")]
    Credit(u32),
}
