//! The exit status of a run whose command has none.

use guest_protocol::failure::{CallError, command_status};

/// The run failed for another reason than its command. Source: `docker run`.
const FAILED: u8 = 125;

/// A shell's status for a command that could not be run, if that is what `error` is about.
pub fn status_of(error: &anyhow::Error) -> u8 {
    let call = error.chain().find_map(|cause| cause.downcast_ref::<CallError>());
    call.and_then(|call| command_status(call.reason())).unwrap_or(FAILED)
}

#[cfg(test)]
mod tests {
    use guest_protocol::failure::{Failure, Reason};
    use ttrpc::Code;

    use super::*;

    #[test]
    fn a_command_has_the_shells_status_and_the_rest_dockers() {
        let status = |reason: Reason| {
            let text = "exec: \"foo\": no".to_owned();
            let call = CallError::from(Failure { code: Code::UNKNOWN, reason, text });
            status_of(&anyhow::Error::new(call).context("creating the container"))
        };
        assert_eq!(status(Reason::COMMAND_NOT_FOUND), 127);
        assert_eq!(status(Reason::COMMAND_NOT_EXECUTABLE), 126);
        assert_eq!(status(Reason::REASON_UNSPECIFIED), 125);
        assert_eq!(status_of(&anyhow::anyhow!("exec: \"foo\": executable file not found in $PATH")), 125);
    }
}
