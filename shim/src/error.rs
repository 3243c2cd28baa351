//! The shim's one error type: a gRPC code that containerd acts on, and the story for a person.

use std::{fmt, sync::Arc};

use containerd_shim_protos::ttrpc::{self, Code};
use guest_protocol::failure::{CallError, Failure, Reason, command_status};

/// The exit status of a container that was never made, and not for its command's sake.
const NO_STATUS: u32 = 255;

/// An error with the code that containerd acts on. It is shown with its causes: containerd's clients print one line.
#[derive(Debug, Clone)]
pub struct Error {
    code: Code,
    /// What was wrong with a command, by the guest's word.
    reason: Reason,
    message: String,
    cause: Option<Arc<anyhow::Error>>,
}

/// What the shim's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($name:ident => $code:ident, $doc:literal;)*) => {
        impl Error {
            $(#[doc = $doc] pub fn $name(message: impl Into<String>) -> Self {
                Error { code: Code::$code, reason: Reason::REASON_UNSPECIFIED, message: message.into(), cause: None }
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

    /// Whether the guest did not answer in time, so that nobody knows what it did.
    pub fn is_late(&self) -> bool {
        let cause = self.cause.as_ref().and_then(|cause| cause.downcast_ref::<CallError>());
        matches!(cause, Some(CallError::Late))
    }

    /// There is no such program; `message` is runc's.
    pub fn command_not_found(message: impl Into<String>) -> Error {
        Error { reason: Reason::COMMAND_NOT_FOUND, ..Error::internal(message) }
    }

    /// It is no program; `message` is runc's.
    pub fn command_not_executable(message: impl Into<String>) -> Error {
        Error { reason: Reason::COMMAND_NOT_EXECUTABLE, ..Error::internal(message) }
    }

    /// The exit status of a container that could not be made: its command's, if that was why.
    pub fn exit_status(&self) -> u32 {
        command_status(self.reason).map_or(NO_STATUS, u32::from)
    }

    /// A shell's status for a command that could not be run, if that is what it is about.
    pub fn command_status(&self) -> Option<u8> {
        command_status(self.reason)
    }

    /// The answer to a client that knows of reasons, as the guest gives them.
    pub fn with_reason(self) -> ttrpc::Error {
        Failure { code: self.code, reason: self.reason, text: self.to_string() }.into()
    }

    /// Puts what was attempted before the message.
    pub fn context(self, what: impl std::fmt::Display) -> Self {
        Error { message: format!("{what}: {}", self.message), ..self }
    }

    /// Adds what led to it, which is shown after the message.
    pub fn because(self, cause: impl Into<anyhow::Error>) -> Self {
        Error { cause: Some(Arc::new(cause.into())), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Some(cause) => write!(f, "{}: {cause:#}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| (**cause).as_ref())
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Failed(failure) => {
                Error { code: failure.code, reason: failure.reason, message: failure.text, cause: None }
            }
            other => Error::internal(other.to_string()),
        }
    }
}

impl From<ttrpc::Error> for Error {
    /// A call to the guest failed.
    fn from(error: ttrpc::Error) -> Self {
        CallError::from(error).into()
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
        let message = error.to_string();
        let message = message.trim_end_matches(suffix);
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
        // Source: ttrpc 0.10, `asynchronous/connection.rs`.
        let error = Error::from(ttrpc::Error::Others("Request deadline elapsed".to_owned()));
        assert_eq!(error.to_string(), "the guest did not answer in time");
    }

    #[test]
    fn a_command_that_cannot_run_has_the_shells_status() {
        for (reason, status) in [
            (Reason::COMMAND_NOT_FOUND, 127),
            (Reason::COMMAND_NOT_EXECUTABLE, 126),
            (Reason::REASON_UNSPECIFIED, 255),
        ] {
            let failure = Failure { code: Code::UNKNOWN, reason, text: "no such file, not found".to_owned() };
            let error = Error::from(ttrpc::Error::from(failure));
            assert_eq!(error.clone().context("start").exit_status(), status, "{reason:?}");
        }
        // Words are not codes.
        assert_eq!(Error::not_found("libkrunfw not found").exit_status(), 255);
    }
}
