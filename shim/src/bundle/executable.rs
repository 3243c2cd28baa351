//! Whether a container has the program that its first process is to be. runc says so at Create, and so does this, in its words,
//! where the host can see it; what only the guest can see is Start's to say.

use std::path::PathBuf;

use oci_spec::runtime::Process;

use crate::{
    error::{Error, Result},
    files::pin::{Found, Inside},
};

/// Refuses a process whose program is not there, or is none.
///
/// # Errors
/// As runc's and the guest's.
pub fn check(process: &Process, files: &Inside) -> Result<()> {
    let Some(name) = process.args().iter().flatten().next() else { return Ok(()) };
    if name.contains('/') {
        return match files.look(&process.cwd().join(name)) {
            Found::Nothing => Err(Error::command_not_found(format!(
                "exec: {name:?}: stat {name}: no such file or directory"
            ))),
            Found::Directory(_) => {
                Err(Error::command_not_executable(format!("exec: {name:?}: is a directory")))
            }
            Found::File(mode) if mode & 0o111 == 0 => {
                Err(Error::command_not_executable(format!("exec: {name:?}: permission denied")))
            }
            Found::File(_) | Found::Unknown => Ok(()),
        };
    }
    let path = process.env().iter().flatten().rev().find_map(|variable| variable.strip_prefix("PATH="));
    let Some(path) = path else { return Ok(()) };
    let directory = |of: &str| if of.is_empty() { PathBuf::from(".") } else { PathBuf::from(of) };
    let may_be = |of: &str| match files.look(&process.cwd().join(directory(of)).join(name)) {
        Found::File(mode) => mode & 0o111 != 0,
        Found::Unknown => true,
        Found::Nothing | Found::Directory(_) => false,
    };
    match !name.is_empty() && path.split(':').any(may_be) {
        true => Ok(()),
        false => Err(Error::command_not_found(format!("exec: {name:?}: executable file not found in $PATH"))),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use serde_json::json;

    use super::*;
    use crate::files::pin::{Mounted, Pinned};

    #[test]
    fn a_program_that_is_not_there_is_refused_and_one_that_may_be_is_not() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("bin")).unwrap();
        for (file, mode) in [("bin/sh", 0o755), ("bin/text", 0o644)] {
            fs::write(top.path().join(file), "").unwrap();
            fs::set_permissions(top.path().join(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut files = Inside::new(Pinned::open(top.path()).unwrap());
        files.mount(Path::new("/own"), Mounted::Guests);
        let check = |name: &str, cwd: &str, env: &[&str]| {
            let process = json!({"args": [name], "cwd": cwd, "env": env, "user": {"uid": 0, "gid": 0}});
            check(&serde_json::from_value(process).unwrap(), &files)
                .map_err(|error| (error.command_status(), error.to_string()))
        };
        let path = &["PATH=/none:/bin"][..];
        for (name, cwd, env) in [
            ("sh", "/", path),
            ("/bin/sh", "/none", &[]),
            ("./sh", "/bin", &[]),
            ("sh", "/bin", &["PATH="]),
            ("sh", "/", &[]),
            ("tool", "/", &["PATH=/own/bin"]),
            ("/own/tool", "/", &[]),
        ] {
            assert_eq!(check(name, cwd, env), Ok(()), "{name} in {cwd} with {env:?}");
        }
        for (name, env, status, text) in [
            ("none", path, 127, "exec: \"none\": executable file not found in $PATH"),
            ("", path, 127, "exec: \"\": executable file not found in $PATH"),
            ("text", path, 127, "exec: \"text\": executable file not found in $PATH"),
            ("sh", &["PATH=/bin", "PATH=/none"], 127, "exec: \"sh\": executable file not found in $PATH"),
            ("/none", &[], 127, "exec: \"/none\": stat /none: no such file or directory"),
            ("/bin", &[], 126, "exec: \"/bin\": is a directory"),
            ("/bin/text", &[], 126, "exec: \"/bin/text\": permission denied"),
        ] {
            assert_eq!(check(name, "/", env), Err((Some(status), text.to_owned())), "{name}");
        }
    }
}
