//! What of a snapshot is the image's, for a container that writes elsewhere.

use std::path::{Path, PathBuf};

use containerd_shim_protos::types::mount::Mount;

use crate::error::{Error, Result};

/// The mounts that show the image alone, and the directory of the container's snapshot, which containerd makes and removes with it.
///
/// # Errors
/// `INVALID_ARGUMENT` that says what the mounts are, when they are not an overlay with an upper layer.
pub fn lower_of(mounts: &[Mount]) -> Result<(Vec<Mount>, PathBuf)> {
    let Some((overlay, below)) = mounts.split_last().filter(|(last, _)| last.type_ == "overlay") else {
        return Err(refusal(mounts, "no overlay is the uppermost"));
    };
    let value = |name: &str| overlay.options.iter().find_map(|option| option.strip_prefix(name));
    let (Some(upper), Some(work), Some(lower)) = (value("upperdir="), value("workdir="), value("lowerdir="))
    else {
        return Err(refusal(mounts, "the overlay has not all of upperdir=, workdir= and lowerdir="));
    };
    let snapshot = match (Path::new(upper).parent(), Path::new(work).parent()) {
        (Some(upper), Some(work)) if upper == work && upper.is_absolute() && upper.parent().is_some() => {
            upper
        }
        _ => return Err(refusal(mounts, "upperdir= and workdir= are not in one directory")),
    };
    let mut image = overlay.clone();
    if lower.contains(':') {
        let writes = |option: &String| {
            ["upperdir=", "workdir="].iter().any(|name| option.starts_with(name)) || option == "volatile"
        };
        image.options.retain(|option| !writes(option) && option != "rw");
        image.options.push("ro".to_owned());
    } else {
        // An overlay of one layer alone is refused by Linux.
        let maps = |option: &&String| option.starts_with("uidmap=") || option.starts_with("gidmap=");
        image.options = overlay.options.iter().filter(maps).cloned().collect();
        image.options.extend(["bind", "ro"].map(str::to_owned));
        image.source = lower.to_owned();
        image.type_ = "bind".to_owned();
    }
    Ok(([below, &[image]].concat(), snapshot.to_owned()))
}

fn refusal(mounts: &[Mount], why: &str) -> Error {
    let kinds: Vec<_> = mounts.iter().map(|mount| mount.type_.as_str()).collect();
    Error::invalid(format!(
        "rootfs = block: the snapshotter's mounts are {kinds:?}, and {why}: use one whose last mount is an overlay, as overlayfs, \
         or rootfs = virtiofs"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> Mount {
        Mount {
            type_: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Mount::default()
        }
    }

    #[test]
    fn an_overlay_without_its_upper_layer_is_the_image() {
        let given =
            overlay(&["index=off", "workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs"]);
        let (mounts, snapshot) = lower_of(&[given]).unwrap();
        assert_eq!(mounts[0].options, ["index=off", "lowerdir=/s/2/fs:/s/1/fs", "ro"]);
        assert_eq!((mounts[0].type_.as_str(), snapshot), ("overlay", "/s/3".into()));
    }

    #[test]
    fn a_single_layer_is_bound() {
        let given = overlay(&[
            "uidmap=0:1:1",
            "gidmap=0:1:1",
            "workdir=/s/3/work",
            "upperdir=/s/3/fs",
            "lowerdir=/s/1/fs",
        ]);
        let (mounts, _) = lower_of(&[given]).unwrap();
        assert_eq!((mounts[0].type_.as_str(), mounts[0].source.as_str()), ("bind", "/s/1/fs"));
        assert_eq!(mounts[0].options, ["uidmap=0:1:1", "gidmap=0:1:1", "bind", "ro"]);
    }

    #[test]
    fn what_has_no_upper_layer_beside_its_work_is_refused() {
        let bind = Mount { type_: "bind".to_owned(), ..overlay(&["rbind", "rw"]) };
        for mounts in [
            vec![],
            vec![bind],
            vec![overlay(&["lowerdir=/s/2/fs:/s/1/fs"])],
            vec![overlay(&["workdir=/a/work", "upperdir=/b/fs", "lowerdir=/c"])],
            vec![overlay(&["workdir=/work", "upperdir=/fs", "lowerdir=/c"])],
            vec![overlay(&["workdir=s/work", "upperdir=s/fs", "lowerdir=/c"])],
        ] {
            let error = lower_of(&mounts).unwrap_err().to_string();
            assert!(error.starts_with("rootfs = block: the snapshotter's mounts are ["), "{error}");
        }
    }
}
