//! `-v` and `--tmpfs`: what is mounted in the container besides its root.

use std::{path::Path, str::FromStr};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A directory or file of the host in the container, as `-v` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    source: String,
    target: String,
    read_only: bool,
}

const FORM: &str = "it must be HOST:GUEST or HOST:GUEST:ro, with paths of which the second begins with /";

/// The two or three parts of a text that has colons between them.
pub fn parts(text: &str) -> Option<(&str, &str, Option<&str>)> {
    let mut parts = text.split(':');
    let (first, second, third) = (parts.next()?, parts.next()?, parts.next());
    parts.next().is_none().then_some((first, second, third))
}

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (source, target, option) = parts(text).ok_or(FORM)?;
        let read_only = match option {
            None | Some("rw") => false,
            Some("ro") => true,
            Some(other) => return Err(format!("{other:?}: ro and rw are allowed; {FORM}")),
        };
        if !target.starts_with('/') {
            return Err(FORM.to_owned());
        }
        if !source.contains('/') && source != "." && source != ".." {
            return Err(format!(
                "{source:?}: there are no named volumes; a path has a / in it, as ./{source}"
            ));
        }
        Ok(Volume { source: source.to_owned(), target: target.to_owned(), read_only })
    }
}

impl Volume {
    /// The mount of an OCI spec.
    ///
    /// # Errors
    /// When the host has nothing at the path.
    pub fn mount(&self) -> Result<Value> {
        let source = std::path::absolute(&self.source)?;
        // Nothing is made on the host for a path that was mistyped. The sandbox opens it once more, and shows that.
        source.metadata().with_context(|| format!("-v {}", self.source))?;
        let access = if self.read_only { "ro" } else { "rw" };
        Ok(json!({
            "destination": self.target, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]
        }))
    }
}

/// A file of ours in the container, which it cannot write: that would fill the host's /run.
pub fn own_file(source: &Path, target: &str) -> Value {
    json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", "ro"]})
}

/// A file system in the VM's memory, as `--tmpfs` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    target: String,
    options: Vec<String>,
}

impl FromStr for Tmpfs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        if !target.starts_with('/') {
            return Err("it must be GUEST or GUEST:OPTIONS, with a path that begins with /".to_owned());
        }
        let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
        Ok(Tmpfs { target: target.to_owned(), options })
    }
}

/// What a tmpfs has unless it is told otherwise. Source: `docker run --tmpfs`.
const TMPFS: [&str; 3] = ["nosuid", "nodev", "noexec"];

impl Tmpfs {
    /// The mount of an OCI spec.
    pub fn mount(&self) -> Value {
        let defaults = TMPFS.map(str::to_owned).into_iter();
        let options: Vec<_> = defaults.chain(self.options.iter().cloned()).collect();
        json!({"destination": self.target, "type": "tmpfs", "source": "tmpfs", "options": options})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_two_paths_and_is_writable_unless_it_says_so() {
        let volume = |text: &str| text.parse::<Volume>().unwrap().mount().unwrap();
        assert_eq!(volume("/etc:/x")["options"], json!(["rbind", "rprivate", "rw"]));
        assert_eq!(volume("/etc/hosts:/x:ro")["options"], json!(["rbind", "rprivate", "ro"]));
        let here = std::env::current_dir().unwrap();
        assert_eq!(volume(".:/x")["source"], json!(here));
    }

    #[test]
    fn what_is_wrong_with_a_volume_is_said() {
        for (text, words) in [
            ("/etc", "HOST:GUEST"),
            ("/etc:x", "begins with /"),
            ("/a:/b:ro:x", "HOST:GUEST"),
            ("/a:/b:exec", "ro and rw"),
            ("data:/b", "named volumes"),
        ] {
            let error = text.parse::<Volume>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        let error = "/no/such:/b".parse::<Volume>().unwrap().mount().unwrap_err();
        assert!(format!("{error:#}").contains("-v /no/such: No such file"), "{error:#}");
    }

    #[test]
    fn a_tmpfs_takes_options() {
        let tmpfs: Tmpfs = "/tmp:size=1m,exec".parse().unwrap();
        assert_eq!(tmpfs.mount()["options"], json!(["nosuid", "nodev", "noexec", "size=1m", "exec"]));
        assert!("tmp".parse::<Tmpfs>().unwrap_err().contains("begins with /"));
    }
}
