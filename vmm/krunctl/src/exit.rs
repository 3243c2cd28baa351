//! Exit statuses: the command's, or one that says why there is none.

use std::process::ExitCode;

use anyhow::Result;
use nix::sys::signal::Signal;
use shim::direct::Error;

use crate::table::plain;

/// It failed for another reason than its command. Source: `docker run`.
pub const FAILED: u8 = 125;

/// It took too long. Source: timeout(1).
pub const TIMEOUT: u8 = 124;

/// The exit code for `result`; an error is told on stderr.
///
/// 126 when a command cannot be executed and 127 when it is not found, as a shell does; [`FAILED`] when the run itself fails.
pub fn of(result: Result<u8>) -> ExitCode {
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("krunctl: {}", plain(&told(&error)));
            ExitCode::from(of_command(&error).unwrap_or(FAILED))
        }
    }
}

/// An error and its causes. One that the text before it ends with is not said again.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        before if before.ends_with(&cause) => told,
        before => format!("{before}: {cause}"),
    })
}

/// A shell's status for a command that could not be run, if that is what `error` is about.
pub fn of_command(error: &anyhow::Error) -> Option<u8> {
    error.chain().find_map(|cause| cause.downcast_ref::<Error>()).and_then(Error::command_status)
}

/// A shell's status for what a signal has ended.
pub fn of_signal(signal: Signal) -> u8 {
    128 + signal as u8
}

#[cfg(test)]
mod tests {
    use guest_protocol::failure::{CallError, Failure, Reason};
    use ttrpc::Code;

    use super::*;

    #[test]
    fn a_command_has_the_shells_status_and_the_rest_none() {
        let status = |reason: Reason| {
            let text = "exec: \"foo\": no".to_owned();
            let call = CallError::from(Failure { code: Code::UNKNOWN, reason, text });
            of_command(&anyhow::Error::new(Error::from(call)).context("creating the container"))
        };
        assert_eq!(status(Reason::COMMAND_NOT_FOUND), Some(127));
        assert_eq!(status(Reason::COMMAND_NOT_EXECUTABLE), Some(126));
        assert_eq!(status(Reason::REASON_UNSPECIFIED), None);
        assert_eq!(of_command(&anyhow::anyhow!("exec: \"foo\": executable file not found in $PATH")), None);
    }

    #[test]
    fn a_cause_is_told_once() {
        let missing = || std::io::Error::from_raw_os_error(libc::ENOENT);
        let text = missing().to_string();
        let error = anyhow::Error::new(missing()).context(format!("/x: {text}")).context("reading");
        assert_eq!(told(&error), format!("reading: /x: {text}"));
    }

    #[test]
    fn a_signal_has_the_shells_status() {
        assert_eq!(of_signal(Signal::SIGINT), 130);
        assert_eq!(of_signal(Signal::SIGTERM), 143);
    }
}
