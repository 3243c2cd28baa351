//! Parses the URI of an output: a FIFO, a file, or a program that logs it. A new scheme belongs here.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To a client that reads this FIFO.
    Fifo(PathBuf),
    /// To the end of this file.
    File(PathBuf),
    /// To a program that logs it.
    Binary(Binary),
}

/// A logging program. Source: containerd `core/runtime/v2/README.md`, "Logging".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Whether it must say by a byte that it is ready (`binary-v2://`); else closing the descriptor is enough.
    pub must_answer: bool,
}

impl Target {
    /// Parses `uri`; one without a scheme is a FIFO's path.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` for another scheme, `INVALID_ARGUMENT` for a program without a path.
    pub fn parse(uri: &str) -> Result<Target> {
        let Some((scheme, rest)) = uri.split_once("://") else { return Ok(Target::Fifo(uri.into())) };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = PathBuf::from(OsString::from_vec(percent_decode_str(path).collect()));
        match scheme {
            "fifo" => Ok(Target::Fifo(path)),
            "file" => Ok(Target::File(path)),
            "binary" | "binary-v2" => {
                if !path.is_absolute() {
                    return Err(Error::invalid(format!(
                        "output {uri:?}: an absolute path must follow {scheme}://"
                    )));
                }
                Ok(Target::Binary(Binary {
                    path,
                    args: arguments(query),
                    must_answer: scheme == "binary-v2",
                }))
            }
            other => Err(Error::unimplemented(format!(
                "output {uri:?}: {other}:// is not offered; a FIFO's path, file:// and binary:// are"
            ))),
        }
    }

    /// The path of a FIFO or file, or of a program.
    pub fn path(&self) -> &Path {
        match self {
            Target::Fifo(path) | Target::File(path) | Target::Binary(Binary { path, .. }) => path,
        }
    }
}

/// The keys of the query, each followed by its value. The first value of a repeated key counts. Source: containerd
/// `cmd/containerd-shim-runc-v2/process/io_util.go`.
fn arguments(query: &str) -> Vec<OsString> {
    let mut seen: Vec<(String, String)> = Vec::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()).into_owned() {
        if !seen.iter().any(|(known, _)| *known == key) {
            seen.push((key, value));
        }
    }
    seen.into_iter().flat_map(|(key, value)| [key.into(), value.into()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_files_are_parsed() {
        assert_eq!(Target::parse("/run/fi fo%20").unwrap(), Target::Fifo("/run/fi fo%20".into()));
        assert_eq!(Target::parse("fifo:///run/fifo").unwrap(), Target::Fifo("/run/fifo".into()));
        assert_eq!(Target::parse("file:///var/log/a%20b?x=y").unwrap(), Target::File("/var/log/a b".into()));
    }

    #[test]
    fn a_program_gets_its_query_as_arguments() {
        let uri = "binary:///usr/bin/nerdctl?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib%2Fnerdctl&flag&a=b+c&a=d";
        let Target::Binary(binary) = Target::parse(uri).unwrap() else { panic!("{uri} is a program") };
        assert_eq!(binary.path, Path::new("/usr/bin/nerdctl"));
        assert_eq!(binary.args, ["_NERDCTL_INTERNAL_LOGGING", "/var/lib/nerdctl", "flag", "", "a", "b c"]);
        assert!(!binary.must_answer);
        let Target::Binary(binary) = Target::parse("binary-v2:///l").unwrap() else { panic!() };
        assert!(binary.must_answer && binary.args.is_empty());
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        let error = Target::parse("https://host/log").unwrap_err().to_string();
        assert!(error.contains("https://"), "{error}");
        let error = Target::parse("binary://logger?a=b").unwrap_err().to_string();
        assert!(error.contains("absolute path"), "{error}");
    }
}
