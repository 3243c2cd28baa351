//! Finds the parts of a VM on this host. An error lists the places that were searched.

use std::{
    env, fmt,
    path::{Path, PathBuf},
};

/// Name of the library that contains the guest's kernel. libkrun 1.19 loads this major version.
pub const LIBKRUNFW: &str = "libkrunfw.so.5";

/// The usual directories of the dynamic loader. LD_LIBRARY_PATH has no effect: the vmm has no environment.
const LIBRARY_DIRS: [&str; 6] = [
    "/usr/local/lib64",
    "/usr/local/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/opt/krun/lib",
];

/// The directories where guest-init is installed, and krun-vmm by packages.
const LIBEXEC_DIRS: [&str; 3] = ["/usr/local/libexec/krun", "/usr/libexec/krun", "/usr/lib/krun"];

/// The other directories where krun-vmm is installed.
const VMM_DIRS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/opt/krun/bin"];

/// A part was not found.
#[derive(Debug, thiserror::Error)]
pub struct NotFound {
    /// The part.
    pub what: &'static str,
    /// The places that were searched, in order.
    pub places: Vec<PathBuf>,
    /// What the user can do.
    pub advice: &'static str,
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<_> = self.places.iter().map(|place| place.display().to_string()).collect();
        write!(f, "{} not found (searched: {}): {}", self.what, places.join(", "), self.advice)
    }
}

/// Finds the library that contains the guest's kernel: `configured`, or in the usual directories.
///
/// # Errors
/// When it is not there.
pub fn libkrunfw(configured: Option<&Path>) -> Result<PathBuf, NotFound> {
    let advice = "install libkrunfw 5 (Debian forky or sid, Fedora: libkrunfw; or its release from GitHub), or set its path";
    find(LIBKRUNFW, configured, LIBRARY_DIRS.iter().map(Path::new).map(Path::to_owned), advice)
}

/// Finds PID 1 of the guest: `configured`, or what was installed with this executable, or where it is installed, or next
/// to this executable.
///
/// # Errors
/// As [`libkrunfw`].
pub fn guest_init(configured: Option<&Path>) -> Result<PathBuf, NotFound> {
    let advice = "install it in one of these places, or set its path";
    let own = own_directory();
    let dirs = own.as_deref().and_then(own_libexec).into_iter();
    let dirs = dirs.chain(LIBEXEC_DIRS.iter().map(PathBuf::from)).chain(own);
    find("guest-init", configured, dirs, advice)
}

/// Finds krun-vmm: what was installed with this executable, or next to it, or where it is installed, or in PATH.
///
/// # Errors
/// When it is not there.
pub fn krun_vmm() -> Result<PathBuf, NotFound> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = own_directory();
    let libexec = own.as_deref().and_then(own_libexec);
    let dirs = libexec.into_iter().chain(own);
    let dirs = dirs.chain(VMM_DIRS.iter().chain(&LIBEXEC_DIRS).map(PathBuf::from));
    let dirs = dirs.chain(env::split_paths(&path).filter(|dir| dir.is_absolute()));
    find("krun-vmm", None, dirs, "install it next to this program, or in PATH")
}

fn own_directory() -> Option<PathBuf> {
    Some(env::current_exe().ok()?.parent()?.to_owned())
}

/// Where the parts of an installation lie whose programs lie in `directory`: a package's program never takes a part of
/// what was installed below /usr/local before.
fn own_libexec(directory: &Path) -> Option<PathBuf> {
    Some(directory.parent()?.join("libexec/krun"))
}

fn find(
    name: &'static str,
    configured: Option<&Path>,
    dirs: impl Iterator<Item = PathBuf>,
    advice: &'static str,
) -> Result<PathBuf, NotFound> {
    let mut places: Vec<PathBuf> = match configured {
        Some(path) => vec![path.to_owned()],
        None => dirs.map(|dir| dir.join(name)).collect(),
    };
    if let Some(found) = places.iter().position(|place| place.is_file()) {
        return Ok(places.swap_remove(found));
    }
    let mut seen = std::collections::HashSet::new();
    places.retain(|place| seen.insert(place.clone()));
    Err(NotFound { what: name, places, advice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_configured_path_is_searched() {
        assert_eq!(libkrunfw(Some(Path::new("/etc/passwd"))).unwrap(), Path::new("/etc/passwd"));
        let error = libkrunfw(Some(Path::new("/none/libkrunfw.so.5"))).unwrap_err();
        assert!(
            error.to_string().starts_with(
                "libkrunfw.so.5 not found (searched: /none/libkrunfw.so.5): install libkrunfw 5"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_program_has_the_parts_of_its_own_installation() {
        assert_eq!(own_libexec(Path::new("/usr/bin")).unwrap(), Path::new("/usr/libexec/krun"));
        assert_eq!(own_libexec(Path::new("/usr/local/bin")).unwrap(), Path::new("/usr/local/libexec/krun"));
        assert_eq!(own_libexec(Path::new("/")), None);
    }

    #[test]
    fn the_first_place_wins_and_the_error_names_each_place_once() {
        let dirs = || ["/none", "/etc", "/none", "/usr"].into_iter().map(PathBuf::from);
        assert_eq!(find("passwd", None, dirs(), "").unwrap(), Path::new("/etc/passwd"));
        let error = find("no-such-file", None, dirs(), "do this").unwrap_err();
        assert_eq!(
            error.to_string(),
            "no-such-file not found (searched: /none/no-such-file, /etc/no-such-file, /usr/no-such-file): do this"
        );
    }
}
