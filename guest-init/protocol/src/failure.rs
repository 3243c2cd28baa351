//! Failed calls: how the guest answers with a reason, and how the host reads that answer.
//!
//! The guest is hostile. Its reason is a code of [`Reason`] or none, and its text is cut and cleaned here, once, before
//! anything on the host keeps it.

use protobuf::{Enum, Message};
use ttrpc::Code;

pub use crate::api::Reason;

/// The longest text of a guest's failure that the host keeps, in bytes.
pub const MAX_TEXT: usize = 4096;

/// Ends a text that was longer.
const CUT: &str = " [cut]";

/// Names the one detail of a status that carries a reason.
const TYPE_URL: &str = "krun.guest.v1.Failure";

/// What ttrpc's client says of a call that nobody answered in time. Source: ttrpc 0.10, `asynchronous/connection.rs`.
const LATE: &str = "Request deadline elapsed";

/// The guest's answer to a call that failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// The kind of failure, for callers.
    pub code: Code,
    /// What was wrong with the command, if that was it.
    pub reason: Reason,
    /// What was attempted, on what, and why it failed; for people.
    pub text: String,
}

/// Why a call to the guest failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The guest said no.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The guest said nothing before the call's deadline.
    #[error("the guest did not answer in time")]
    Late,
    /// The connection is lost.
    #[error("the connection to the guest: {0}")]
    Connection(ttrpc::Error),
}

/// The status that a shell gives a command that could not be run: 127 when it was not found, 126 when it could not be
/// executed. `None` when the command was not what failed. Source: POSIX, Shell Command Language, 2.8.2.
pub fn command_status(reason: Reason) -> Option<u8> {
    match reason {
        Reason::COMMAND_NOT_FOUND | Reason::DIRECTORY_NOT_FOUND => Some(127),
        Reason::COMMAND_NOT_EXECUTABLE | Reason::DIRECTORY_NOT_ACCESSIBLE => Some(126),
        Reason::REASON_UNSPECIFIED => None,
    }
}

impl CallError {
    /// The reason that the guest gave.
    pub fn reason(&self) -> Reason {
        match self {
            CallError::Failed(failure) => failure.reason,
            CallError::Late | CallError::Connection(_) => Reason::REASON_UNSPECIFIED,
        }
    }
}

impl From<Failure> for ttrpc::Error {
    /// In the guest: the answer to the call.
    fn from(failure: Failure) -> Self {
        let mut status = ttrpc::get_status(failure.code, failure.text);
        if failure.reason != Reason::REASON_UNSPECIFIED {
            let detail = crate::api::Failure { reason: failure.reason.into(), ..Default::default() };
            let mut any = ttrpc::proto::Any::new();
            any.type_url = TYPE_URL.to_owned();
            // A message of one number cannot fail to be encoded.
            any.value = detail.write_to_bytes().unwrap_or_default();
            status.details.push(any);
        }
        ttrpc::Error::RpcStatus(status)
    }
}

impl From<ttrpc::Error> for CallError {
    /// On the host: what became of the call.
    fn from(error: ttrpc::Error) -> Self {
        match error {
            ttrpc::Error::RpcStatus(status) => {
                let reason =
                    status.details.iter().find(|any| any.type_url == TYPE_URL).map(|any| reason(&any.value));
                // A code that is none, or says that all is well, must not pass for success further up.
                let code = Some(status.code()).filter(|code| *code != Code::OK).unwrap_or(Code::UNKNOWN);
                CallError::Failed(Failure {
                    code,
                    reason: reason.unwrap_or_default(),
                    text: one_line(&status.message),
                })
            }
            ttrpc::Error::Others(text) if text == LATE => CallError::Late,
            other => CallError::Connection(other),
        }
    }
}

/// The reason in a detail; none when the detail is not understood.
fn reason(detail: &[u8]) -> Reason {
    let detail = crate::api::Failure::parse_from_bytes(detail).unwrap_or_default();
    Reason::from_i32(detail.reason.value()).unwrap_or_default()
}

/// A hostile guest's `text` in one line of at most [`MAX_TEXT`] bytes, fit for a log and a terminal.
pub fn one_line(text: &str) -> String {
    let mut kept = text;
    if text.len() > MAX_TEXT {
        let mut end = MAX_TEXT - CUT.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        kept = &text[..end];
    }
    // Control characters forge lines of a log, and move a terminal's cursor. ASCII's are replaced by as many bytes; the
    // others (two bytes each) by fewer.
    let mut line: String = kept.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if kept.len() < text.len() {
        line.push_str(CUT);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(failure: Failure) -> CallError {
        ttrpc::Error::from(failure).into()
    }

    #[test]
    fn a_reason_arrives_with_its_code_and_text() {
        for reason in Reason::VALUES {
            let failure = Failure { code: Code::INVALID_ARGUMENT, reason: *reason, text: "no sh".to_owned() };
            assert!(matches!(sent(failure.clone()), CallError::Failed(got) if got == failure), "{reason:?}");
        }
    }

    #[test]
    fn commands_have_the_shells_statuses() {
        assert_eq!(command_status(Reason::COMMAND_NOT_FOUND), Some(127));
        assert_eq!(command_status(Reason::COMMAND_NOT_EXECUTABLE), Some(126));
        assert_eq!(command_status(Reason::DIRECTORY_NOT_FOUND), Some(127));
        assert_eq!(command_status(Reason::DIRECTORY_NOT_ACCESSIBLE), Some(126));
        assert_eq!(command_status(Reason::REASON_UNSPECIFIED), None);
    }

    #[test]
    fn details_that_lie_are_no_reason() {
        // Field 1 (`reason`), varint 99, which no reason has; and bytes that are no message.
        for value in [vec![0x08, 99], vec![0xff; 9]] {
            let mut status = ttrpc::get_status(Code::UNKNOWN, "text");
            let mut any = ttrpc::proto::Any::new();
            any.type_url = TYPE_URL.to_owned();
            any.value = value;
            status.details.push(any);
            let error = CallError::from(ttrpc::Error::RpcStatus(status));
            assert_eq!(error.reason(), Reason::REASON_UNSPECIFIED);
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        let text = |text: String| {
            sent(Failure { code: Code::UNKNOWN, reason: Reason::REASON_UNSPECIFIED, text }).to_string()
        };
        // Two bytes each, from an odd offset on.
        let cut = text(format!("x{}", "ä".repeat(MAX_TEXT)));
        assert!(cut.len() <= MAX_TEXT && cut.len() > MAX_TEXT - 2 * CUT.len(), "{}", cut.len());
        assert!(cut.ends_with("ä [cut]"));
        let whole = "x".repeat(MAX_TEXT);
        assert_eq!(text(whole.clone()), whole);
    }

    #[test]
    fn a_text_is_one_line_and_moves_no_cursor() {
        let error = sent(Failure {
            code: Code::UNKNOWN,
            reason: Reason::REASON_UNSPECIFIED,
            text: "a\nroot: ok\x1b[2J\u{9b}1m".to_owned(),
        });
        assert_eq!(error.to_string(), "a root: ok [2J 1m");
    }

    #[test]
    fn a_failure_is_never_a_success() {
        let status = ttrpc::get_status(Code::OK, "all is well");
        let error = CallError::from(ttrpc::Error::RpcStatus(status));
        assert!(matches!(error, CallError::Failed(failure) if failure.code == Code::UNKNOWN));
    }

    #[test]
    fn a_guest_that_does_not_answer_is_told_from_one_that_is_gone() {
        assert!(matches!(CallError::from(ttrpc::Error::Others(LATE.to_owned())), CallError::Late));
        assert!(matches!(CallError::from(ttrpc::Error::RemoteClosed), CallError::Connection(_)));
    }
}
