//! The AppArmor profile that a spec names.

use oci_spec::runtime::Spec;
use vm_launcher::config::MAX_APPARMOR_PROFILE;

use crate::error::{Error, Result};

/// What stands for "no profile", besides an empty name.
const UNCONFINED: &str = "unconfined";

/// The profile of `spec`'s process, if it is to have one.
///
/// # Errors
/// `INVALID_ARGUMENT` for a name that no profile can have.
pub fn profile(spec: &Spec) -> Result<Option<String>> {
    let named = spec.process().as_ref().and_then(|process| process.apparmor_profile().as_deref());
    parse("process.apparmorProfile", named.unwrap_or_default())
}

/// The profile of this name, which is the value of `key`, if it stands for one.
///
/// # Errors
/// As of [`profile`].
pub fn parse(key: &str, name: &str) -> Result<Option<String>> {
    if name.is_empty() || name == UNCONFINED {
        return Ok(None);
    }
    let problem = if name.contains(['\0', '\n']) {
        "contains a zero byte or a newline".to_owned()
    } else if name.len() > MAX_APPARMOR_PROFILE {
        format!("has {} bytes: at most {MAX_APPARMOR_PROFILE} are allowed", name.len())
    } else {
        return Ok(Some(name.to_owned()));
    };
    Err(Error::invalid(format!("{key} {problem}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(name: Option<&str>) -> Result<Option<String>> {
        let mut spec = json!({"ociVersion": "1.0.2", "process": {
            "cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0},
        }});
        if let Some(name) = name {
            spec["process"]["apparmorProfile"] = json!(name);
        }
        profile(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn a_profile_is_named_or_there_is_none() {
        assert_eq!(
            of(Some("cri-containerd.apparmor.d")).unwrap().as_deref(),
            Some("cri-containerd.apparmor.d")
        );
        for none in [None, Some(""), Some("unconfined")] {
            assert_eq!(of(none).unwrap(), None, "{none:?}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_is_refused() {
        assert!(of(Some(&"p".repeat(MAX_APPARMOR_PROFILE))).is_ok());
        for name in ["a\0b", "a\nchangeprofile b", &"p".repeat(MAX_APPARMOR_PROFILE + 1)] {
            let error = of(Some(name)).unwrap_err().to_string();
            assert!(error.contains("process.apparmorProfile"), "{error}");
        }
    }
}
