//! The shim's one error type: a gRPC code that containerd acts on, and the story for a person.

use containerd_shim_protos::ttrpc::{self, Code};

/// An error with the code that containerd acts on.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: Code,
    message: String,
}

/// What the shim's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($name:ident => $code:ident, $doc:literal;)*) => {
        impl Error {
            $(#[doc = $doc] pub fn $name(message: impl Into<String>) -> Self {
                Error { code: Code::$code, message: message.into() }
            })*
        }
    };
}

constructors! {
    not_found => NOT_FOUND, "No such task or process.";
    already_exists => ALREADY_EXISTS, "The id is taken.";
    precondition => FAILED_PRECONDITION, "Not in this state.";
    invalid => INVALID_ARGUMENT, "The caller's input cannot be used.";
    unimplemented => UNIMPLEMENTED, "Not offered.";
    internal => UNKNOWN, "The shim, the vmm or the guest failed.";
}

impl Error {
    /// The code that containerd acts on.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whether the shim, the vmm or the guest failed.
    pub fn is_internal(&self) -> bool {
        self.code == Code::UNKNOWN
    }

    /// The same error once more, for another of those who wait for the same outcome.
    pub fn repeated(&self) -> Self {
        Error { code: self.code, message: self.message.clone() }
    }

    /// The exit status of a container that was never made for this reason. Source: the shell's
    /// and Docker's convention, 127 for a command that is not found, 126 for one that cannot be run.
    pub fn exit_status(&self) -> u32 {
        match () {
            () if self.message.contains("not found") || self.message.contains("no such file") => 127,
            () if self.message.contains("ermission denied") => 126,
            () => 255,
        }
    }

    /// Puts `what` was attempted before the message, keeping the code.
    pub fn context(self, what: impl std::fmt::Display) -> Self {
        Error { code: self.code, message: format!("{what}: {}", self.message) }
    }
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Error::internal(format!("{error:#}"))
    }
}

/// What ttrpc's client says of a call that nobody answered in time. Source: ttrpc 0.10,
/// `asynchronous/connection.rs`.
const LATE: &str = "Request deadline elapsed";

impl From<ttrpc::Error> for Error {
    fn from(error: ttrpc::Error) -> Self {
        match error {
            ttrpc::Error::RpcStatus(status) => Error { code: status.code(), message: status.message },
            ttrpc::Error::Others(said) if said == LATE => Error::internal("the guest did not answer in time"),
            other => Error::internal(other.to_string()),
        }
    }
}

/// The words that a code's message ends with in containerd's own code, and that its clients look
/// for. Source: containerd/errdefs, `errors.go`.
fn suffix(code: Code) -> &'static str {
    match code {
        Code::NOT_FOUND => ": not found",
        Code::ALREADY_EXISTS => ": already exists",
        Code::FAILED_PRECONDITION => ": failed precondition",
        Code::INVALID_ARGUMENT => ": invalid argument",
        Code::UNIMPLEMENTED => ": not implemented",
        _ => "",
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        let suffix = suffix(error.code);
        let message = error.message.trim_end_matches(suffix);
        ttrpc::Error::RpcStatus(ttrpc::get_status(error.code, format!("{message}{suffix}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_ends_as_containerds_do() {
        for message in ["no task a", "no task a: not found"] {
            let error = ttrpc::Error::from(Error::not_found(message));
            assert!(matches!(error, ttrpc::Error::RpcStatus(s) if s.message == "no task a: not found"));
        }
    }

    #[test]
    fn a_guest_that_does_not_answer_is_named() {
        let error = Error::from(ttrpc::Error::Others(LATE.to_owned()));
        assert_eq!(error.to_string(), "the guest did not answer in time");
    }

    #[test]
    fn a_command_that_cannot_run_has_the_shells_status() {
        assert_eq!(Error::internal("exec: \"x\": executable file not found in $PATH").exit_status(), 127);
        assert_eq!(Error::internal("exec: \"/x\": permission denied").exit_status(), 126);
        assert_eq!(Error::internal("the VM did not come up").exit_status(), 255);
    }
}
