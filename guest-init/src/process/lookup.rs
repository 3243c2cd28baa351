//! Finds the executable that a process's args name. It looks from inside the container, with the process's rights, and
//! says in runc's words why an executable cannot be used.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use guest_protocol::failure::Reason;

use crate::process::env;
use crate::rpc::fault::{Refusal, errno_text};

/// The path to execute for `name`, seen from this process's root, directory and user.
pub fn executable(name: &str, environment: &[String]) -> Result<PathBuf, Refusal> {
    if name.contains('/') {
        return match usable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(err) => {
                let stat = match err.kind() {
                    io::ErrorKind::NotFound => format!("stat {name}: "),
                    _ => String::new(),
                };
                let text = format!("exec: {name:?}: {stat}{}", errno_text(&err));
                Err(Refusal::of_command(&err, text))
            }
        };
    }
    let missing = || {
        let text = format!("exec: {name:?}: executable file not found in $PATH");
        Refusal::new(Reason::COMMAND_NOT_FOUND, text)
    };
    if name.is_empty() {
        return Err(missing());
    }
    env::lookup(environment, "PATH")
        .unwrap_or_default()
        .split(':')
        .map(|dir| if dir.is_empty() { Path::new(".") } else { Path::new(dir) }.join(name))
        .find(|path| usable(path).is_ok())
        .ok_or_else(missing)
}

fn usable(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: a string that ends in a zero and outlives the call.
    match unsafe { libc::access(path.as_ptr(), libc::X_OK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(dirs: &str) -> Vec<String> {
        vec![format!("PATH={dirs}")]
    }

    #[test]
    fn a_name_is_searched_and_a_path_is_not() {
        assert_eq!(executable("sh", &path("/nope:/bin")).unwrap(), Path::new("/bin/sh"));
        assert_eq!(executable("/bin/sh", &[]).unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn what_cannot_run_is_named_with_its_reason() {
        let refused = |name: &str| {
            let refusal = executable(name, &path("/bin")).unwrap_err();
            (refusal.reason(), refusal.to_string())
        };
        let (missing, unusable) = (Reason::COMMAND_NOT_FOUND, Reason::COMMAND_NOT_EXECUTABLE);
        for (name, reason, text) in [
            ("foo", missing, "exec: \"foo\": executable file not found in $PATH"),
            ("", missing, "exec: \"\": executable file not found in $PATH"),
            ("/no/such", missing, "exec: \"/no/such\": stat /no/such: no such file or directory"),
            ("/etc/passwd", unusable, "exec: \"/etc/passwd\": permission denied"),
            ("/etc", unusable, "exec: \"/etc\": is a directory"),
            ("/etc/passwd/x", unusable, "exec: \"/etc/passwd/x\": not a directory"),
        ] {
            assert_eq!(refused(name), (reason, text.to_owned()));
        }
    }
}
