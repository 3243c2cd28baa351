//! How a call fails: with a ttrpc code, a reason that the host acts on, and a text that says what was attempted on what.

use std::fmt;
use std::io;

use guest_protocol::failure::{Failure, Reason};
use protobuf::Enum;
use serde::{Deserialize, Serialize};
use ttrpc::Code;

/// A failed call.
#[derive(Debug)]
pub struct Fault {
    pub code: Code,
    pub reason: Reason,
    pub text: String,
}

impl Fault {
    fn new(code: Code, text: impl Into<String>) -> Fault {
        Fault { code, reason: Reason::REASON_UNSPECIFIED, text: text.into() }
    }

    pub fn not_found(text: impl Into<String>) -> Fault {
        Fault::new(Code::NOT_FOUND, text)
    }

    pub fn exists(text: impl Into<String>) -> Fault {
        Fault::new(Code::ALREADY_EXISTS, text)
    }

    pub fn precondition(text: impl Into<String>) -> Fault {
        Fault::new(Code::FAILED_PRECONDITION, text)
    }

    pub fn invalid(text: impl Into<String>) -> Fault {
        Fault::new(Code::INVALID_ARGUMENT, text)
    }

    pub fn internal(text: impl Into<String>) -> Fault {
        Fault::new(Code::INTERNAL, text)
    }

    /// A process could not be made. The reason is that of a [`Refusal`] among the causes.
    pub fn of_process(err: &anyhow::Error) -> Fault {
        let refusal = err.chain().find_map(|cause| cause.downcast_ref::<Refusal>());
        Fault {
            code: Code::UNKNOWN,
            reason: refusal.map(Refusal::reason).unwrap_or_default(),
            text: format!("{err:#}"),
        }
    }
}

impl From<anyhow::Error> for Fault {
    fn from(err: anyhow::Error) -> Fault {
        Fault::internal(format!("{err:#}"))
    }
}

impl From<Fault> for ttrpc::Error {
    fn from(fault: Fault) -> ttrpc::Error {
        Failure { code: fault.code, reason: fault.reason, text: fault.text }.into()
    }
}

/// Why a process cannot be made. Forks report it to PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The number of a [`Reason`].
    reason: i32,
    text: String,
}

impl Refusal {
    pub fn new(reason: Reason, text: impl Into<String>) -> Refusal {
        Refusal { reason: reason.value(), text: text.into() }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// For another reason than those that the host acts on.
    pub fn other(text: impl Into<String>) -> Refusal {
        Refusal::new(Reason::REASON_UNSPECIFIED, text)
    }

    /// `err` is what executing the command, or looking at it, gave.
    pub fn of_command(err: &io::Error, text: impl Into<String>) -> Refusal {
        Refusal::new(
            match err.kind() {
                io::ErrorKind::NotFound => Reason::COMMAND_NOT_FOUND,
                _ => Reason::COMMAND_NOT_EXECUTABLE,
            },
            text,
        )
    }

    /// `err` is what entering the working directory gave.
    pub fn of_directory(err: &io::Error, text: impl Into<String>) -> Refusal {
        Refusal::new(
            match err.kind() {
                io::ErrorKind::NotFound => Reason::DIRECTORY_NOT_FOUND,
                _ => Reason::DIRECTORY_NOT_ACCESSIBLE,
            },
            text,
        )
    }

    /// What a fork says of `err`: all of it, with the reason of a [`Refusal`] among the causes.
    pub fn of(err: &anyhow::Error) -> Refusal {
        let fault = Fault::of_process(err);
        Refusal::new(fault.reason, fault.text)
    }

    pub fn reason(&self) -> Reason {
        Reason::from_i32(self.reason).unwrap_or_default()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// An operating system's error in the words that runc uses: lower case, without the number.
pub fn errno_text(err: &io::Error) -> String {
    let text = err.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_like_runcs() {
        let err = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(errno_text(&err), "no such file or directory");
    }

    #[test]
    fn a_reason_survives_what_is_put_before_it() {
        let refusal = Refusal::new(Reason::COMMAND_NOT_FOUND, "exec: \"x\": not there");
        let err = anyhow::Error::new(refusal).context("enter the container").context("exec");
        let fault = Fault::of_process(&err);
        assert_eq!(fault.reason, Reason::COMMAND_NOT_FOUND);
        assert_eq!(fault.text, "exec: enter the container: exec: \"x\": not there");
        assert_eq!(Refusal::of(&err).reason(), Reason::COMMAND_NOT_FOUND);
        let other = Fault::of_process(&anyhow::anyhow!("no memory"));
        assert_eq!(other.reason, Reason::REASON_UNSPECIFIED);
    }
}
