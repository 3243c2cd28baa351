//! The directory of all VMs: the names in it, and what comes into it and goes as a whole.

use std::{
    env, fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use images::Digest;
use nix::unistd::geteuid;

use super::description::now;

/// Where the state is unless `$XDG_STATE_HOME` says where.
const STATE: &str = "/var/lib";

/// In it: all VMs.
const VMS: &str = "krun/vms";

/// The longest name, in bytes: it is part of the path of a socket, which may have 107.
const MAX_NAME: usize = 48;

/// Checks a VM's name.
///
/// # Errors
/// When it is none, saying what is allowed.
pub fn name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !begins || text.len() > MAX_NAME || !text.bytes().all(is_plain) {
        return Err(format!(
            "a name has 1 to {MAX_NAME} letters, digits, - and _, and begins with a letter or a digit"
        ));
    }
    Ok(text.to_owned())
}

/// The directory of all VMs, which may not be there yet.
pub fn all_vms() -> PathBuf {
    let base = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    base.unwrap_or_else(|| STATE.into()).join(VMS)
}

/// Refuses a directory of VMs that somebody else could have made: what it says is done by root.
///
/// # Errors
/// When it is not this user's alone, saying what it is.
pub fn check(vms: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(vms) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.with_context(|| vms.display().to_string())?,
    };
    let (uid, mode) = (found.uid(), found.mode() & 0o7777);
    ensure!(
        found.is_dir() && uid == geteuid().as_raw() && mode & 0o077 == 0,
        "{}: it must be a directory of root's alone; it belongs to the user {uid} and has the mode {mode:04o}",
        vms.display()
    );
    Ok(())
}

/// Whether there is a VM of this name.
pub fn exists(name: &str) -> bool {
    all_vms().join(name).exists()
}

/// What makes the name of a VM one of the host's: VMs in another directory than the usual one may have the same names.
pub fn place() -> String {
    let vms = all_vms();
    if vms == Path::new(STATE).join(VMS) {
        return String::new();
    }
    format!("-{}", &Digest::of(vms.as_os_str().as_encoded_bytes()).hex()[..8])
}

/// The name of a directory that this process makes or removes. No VM has such a name.
pub fn unfinished_name() -> String {
    format!(".{}-{}", std::process::id(), now())
}

/// Removes what processes were making or removing when they were killed.
pub fn remove_unfinished(vms: &Path) {
    for entry in fs::read_dir(vms).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((pid, _)) = name.strip_prefix('.').and_then(|rest| rest.split_once('-')) else { continue };
        if pid.parse::<u32>().is_ok()
            && !Path::new("/proc").join(pid).exists()
            && let Err(error) = remove_tree(&entry.path())
        {
            eprintln!("krunctl: removing what is left of a VM: {error:#}");
        }
    }
}

/// Removes what a VM may have written: rm goes down any number of directories with few descriptors, and through no link.
pub fn remove_tree(path: &Path) -> Result<()> {
    let mut rm = Command::new("rm");
    let status = rm.args(["-rf", "--one-file-system", "--"]).arg(path).status().context("starting rm")?;
    ensure!(status.success(), "rm -rf {}: {status}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["web", "7", "a-b_c-d"] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in ["", ".x", "x.y", "-x", "a/b", "a b", "ä", &"x".repeat(MAX_NAME + 1)] {
            assert!(name(bad).unwrap_err().contains("1 to 48"), "{bad}");
        }
    }

    #[test]
    fn a_directory_of_vms_is_roots_alone() {
        let dir = tempfile::tempdir().unwrap();
        let vms = dir.path().join("vms");
        check(&vms).unwrap();
        fs::create_dir(&vms).unwrap();
        fs::set_permissions(&vms, fs::Permissions::from_mode(0o700)).unwrap();
        check(&vms).unwrap();
        symlink(&vms, dir.path().join("link")).unwrap();
        check(&dir.path().join("link")).unwrap_err();
        fs::set_permissions(&vms, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(check(&vms).unwrap_err().to_string().contains("0770"));
    }

    #[test]
    fn what_a_killed_process_was_making_goes() {
        let dir = tempfile::tempdir().unwrap();
        // No process has such a pid: it is more than the kernel gives.
        fs::create_dir(dir.path().join(".4194305-1")).unwrap();
        fs::create_dir(dir.path().join(format!(".{}-1", std::process::id()))).unwrap();
        remove_unfinished(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        // Deeper than a process may have descriptors, in steps that a path may have.
        let mut deep = dir.path().join("part");
        fs::create_dir_all((0..900).fold(deep.clone(), |path, _| path.join("d"))).unwrap();
        fs::rename(&deep, &top).unwrap();
        deep = (0..900).fold(top.clone(), |path, _| path.join("d"));
        assert!(deep.exists());
        remove_tree(&top).unwrap();
        assert!(!top.exists());
    }
}
