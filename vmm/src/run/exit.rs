//! The exit status of a run whose command did not run, as the shell and runc have it.

/// The run itself failed.
const FAILED: u8 = 125;

/// The command was found but cannot be executed.
const NOT_EXECUTABLE: u8 = 126;

/// The command was not found.
const NOT_FOUND: u8 = 127;

/// The guest's error describes the problem only in its text, which is runc's.
pub fn status_of(error: &anyhow::Error) -> u8 {
    let text = format!("{error:#}");
    if !text.contains("exec: \"") {
        FAILED
    } else if text.contains("not found in $PATH") || text.contains("no such file or directory") {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_shell_would() {
        let status = |text: &'static str| status_of(&anyhow::anyhow!(text).context("creating the container"));
        assert_eq!(status("exec: \"foo\": executable file not found in $PATH"), 127);
        assert_eq!(status("exec: \"/foo\": stat /foo: no such file or directory"), 127);
        assert_eq!(status("exec: \"/etc/passwd\": permission denied"), 126);
        assert_eq!(status("no /dev/kvm"), 125);
    }
}
