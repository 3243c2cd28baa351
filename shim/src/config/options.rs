//! The runtime options that containerd passes on: one of several messages, each from another client.

use std::path::PathBuf;

use containerd_shim_protos::{
    protobuf::{Message, well_known_types::any::Any},
    shim::oci,
};

use self::proto::runtimeoptions;
use crate::error::{Error, Result};

/// Generated from `shim/proto`.
mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto/mod.rs"));
}

/// Configuration of ours that containerd's configuration or its client names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// A configuration file (`ConfigPath`, `ctr run --runtime-config-path`).
    pub config_path: Option<PathBuf>,
    /// The text of one (CRI's runtime options, TOML).
    pub config_body: Option<String>,
    /// Who says it.
    pub author: Author,
}

/// Whose options they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Author {
    /// containerd's, or its client's: they change what the administrator's files say.
    #[default]
    Containerd,
    /// krunctl's, by its flags: they stand alone.
    Krunctl,
}

/// CRI's and `ctr`'s message. Source: containerd `api/types/runtimeoptions/v1/api.proto`.
const GENERIC: [&str; 2] = ["runtimeoptions.v1.Options", "cri.runtimeoptions.v1.Options"];

/// runc's message, which clients send to any runtime by default; none of it concerns us.
/// Source: containerd `api/types/runc/options/oci.proto`.
const RUNC: &str = "containerd.runc.v1.Options";

impl RuntimeOptions {
    /// Decodes what came with a request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a message of another type, and for one that does not decode.
    pub fn decode(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any else { return Ok(Self::default()) };
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        if name.is_empty() {
            return Ok(Self::default());
        }
        let malformed =
            |e| Error::invalid(format!("runtime options of type {name} do not decode")).because(e);
        if name == RUNC {
            oci::Options::parse_from_bytes(&any.value).map_err(malformed)?;
            return Ok(Self::default());
        }
        if !GENERIC.contains(&name) {
            let known = GENERIC[0];
            return Err(Error::invalid(format!(
                "runtime options of type {name}: {known} and {RUNC} are understood"
            )));
        }
        let options = runtimeoptions::Options::parse_from_bytes(&any.value).map_err(malformed)?;
        let text = String::from_utf8(options.config_body)
            .map_err(|e| Error::invalid(format!("runtime options of type {name}: config_body")).because(e))?;
        Ok(RuntimeOptions {
            config_path: Some(options.config_path).filter(|path| !path.is_empty()).map(PathBuf::from),
            config_body: Some(text).filter(|text| !text.is_empty()),
            author: Author::Containerd,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(name: &str, value: &[u8]) -> Any {
        Any { type_url: name.to_owned(), value: value.to_owned(), ..Any::default() }
    }

    #[test]
    fn cris_options_are_read() {
        let value = b"\x0a\x01t\x12\x07/a.toml\x1a\x08cpus = 2";
        let options = RuntimeOptions::decode(Some(&any("runtimeoptions.v1.Options", value))).unwrap();
        assert_eq!(options.config_path, Some(PathBuf::from("/a.toml")));
        assert_eq!(options.config_body.as_deref(), Some("cpus = 2"));
    }

    #[test]
    fn what_is_empty_or_unknown_in_them_is_left_out() {
        let value = b"\x12\x00\x1a\x00\x22\x01x";
        let options = RuntimeOptions::decode(Some(&any("runtimeoptions.v1.Options", value))).unwrap();
        assert_eq!(options, RuntimeOptions::default());
    }

    #[test]
    fn what_does_not_decode_is_named() {
        for value in [b"\x12\x07/a".as_slice(), b"\x1a\x01\xff"] {
            let error = RuntimeOptions::decode(Some(&any("runtimeoptions.v1.Options", value))).unwrap_err();
            assert!(error.to_string().contains("runtimeoptions.v1.Options"), "{error}");
        }
    }

    #[test]
    fn runcs_are_accepted_and_others_refused_by_name() {
        assert_eq!(RuntimeOptions::decode(Some(&any(RUNC, b""))).unwrap(), RuntimeOptions::default());
        assert_eq!(RuntimeOptions::decode(None).unwrap(), RuntimeOptions::default());
        let error = RuntimeOptions::decode(Some(&any("other.Options", b""))).unwrap_err();
        assert!(error.to_string().contains("other.Options"), "{error}");
    }
}
