//! Finds the executable that a process's args name, in the container it will run in and with
//! the rights it will have, and says in runc's words why it cannot be used.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use super::env;
use super::fault::errno_text;

/// The path to execute for `name`, seen from this process's root, directory and user.
pub fn executable(name: &str, environment: &[String]) -> Result<PathBuf, String> {
    if name.contains('/') {
        return match usable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                Err(format!("exec: {name:?}: stat {name}: {}", errno_text(&err)))
            }
            Err(err) => Err(format!("exec: {name:?}: {}", errno_text(&err))),
        };
    }
    let missing = || format!("exec: {name:?}: executable file not found in $PATH");
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
    fn what_cannot_run_is_named() {
        assert_eq!(
            executable("foo", &path("/bin")).unwrap_err(),
            "exec: \"foo\": executable file not found in $PATH"
        );
        assert_eq!(
            executable("/no/such", &[]).unwrap_err(),
            "exec: \"/no/such\": stat /no/such: no such file or directory"
        );
        assert_eq!(executable("/etc/passwd", &[]).unwrap_err(), "exec: \"/etc/passwd\": permission denied");
        assert_eq!(executable("/etc", &[]).unwrap_err(), "exec: \"/etc\": is a directory");
        assert!(executable("", &path("/bin")).is_err());
    }
}
