//! Reading a bundle's config.json, which may be missing, broken or absurdly large.

use std::{io::Read, path::Path};

use oci_spec::runtime::Spec;

use crate::{
    error::{Error, Result},
    files::pin::{self, Pinned},
};

/// The file of a bundle that describes its container. Source: OCI runtime-spec, bundle.md.
const NAME: &str = "config.json";

/// The largest config.json, in bytes: it travels to the guest in one ttrpc message, which may be
/// 4 MiB. Source: ttrpc 0.10, `MESSAGE_LENGTH_MAX`.
const MAX_CONFIG: u64 = 3 << 20;

/// Reads `bundle`'s config.json. What has its name and is no file, as a FIFO or a link, is not opened.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the file, and what is wrong with it.
pub fn load(bundle: &Path) -> Result<Spec> {
    let path = bundle.join(NAME);
    let invalid = |what: String| Error::invalid(format!("{}: {what}", path.display()));
    let file = Pinned::open_directory(bundle).and_then(|bundle| pin::open_regular(bundle, Path::new(NAME)));
    let file = file.map_err(|e| invalid(e.to_string()))?;
    let size = file.metadata().map_err(|e| invalid(e.to_string()))?.len();
    if size > MAX_CONFIG {
        return Err(invalid(format!("{size} bytes; {MAX_CONFIG} are allowed")));
    }
    let mut text = Vec::new();
    file.take(MAX_CONFIG + 1).read_to_end(&mut text).map_err(|e| invalid(e.to_string()))?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(invalid(format!("more than the {MAX_CONFIG} bytes allowed")));
    }
    parse(&text).map_err(|error| error.context(path.display()))
}

/// Understands a config.json.
///
/// # Errors
/// `INVALID_ARGUMENT` that says what is wrong with it.
pub fn parse(text: &[u8]) -> Result<Spec> {
    let spec: Spec =
        serde_json::from_slice(text).map_err(|e| Error::invalid("not an OCI spec").because(e))?;
    if spec.process().is_none() {
        return Err(Error::invalid("process is missing"));
    }
    if spec.root().is_none() {
        return Err(Error::invalid("root is missing"));
    }
    if spec.linux().is_none() {
        return Err(Error::invalid("linux is missing: only Linux containers run here"));
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    fn error_for(config: Option<&[u8]>) -> String {
        let dir = tempfile::tempdir().unwrap();
        if let Some(config) = config {
            fs::write(dir.path().join("config.json"), config).unwrap();
        }
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("config.json"), "{error}");
        error
    }

    #[test]
    fn a_bad_config_is_named_with_its_fault() {
        assert!(error_for(None).contains("No such file"));
        assert!(error_for(Some(b"{\"ociVersion\": \"1.0")).contains("not an OCI spec: EOF"));
        assert!(error_for(Some(b"{\"ociVersion\": \"1.0.2\"}")).contains("process is missing"));
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join(NAME);
        mkfifo(&config, Mode::S_IRWXU).unwrap();
        load(dir.path()).unwrap_err();
        fs::remove_file(&config).unwrap();
        symlink("/etc/passwd", &config).unwrap();
        load(dir.path()).unwrap_err();
    }

    #[test]
    fn a_huge_config_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::create(dir.path().join("config.json")).unwrap();
        file.set_len(100 << 20).unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("104857600 bytes; 3145728 are allowed"), "{error}");
    }
}
