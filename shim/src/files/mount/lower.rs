//! What of a snapshot is the image's, for a container that writes elsewhere.

use std::path::Path;

use containerd_shim_protos::types::mount::Mount;

use crate::error::{Error, Result};

/// A snapshot that is an overlay with an upper layer.
#[derive(Debug)]
pub struct Overlay<'a> {
    mounts: &'a [Mount],
    /// The directory of the snapshot, which containerd makes and removes with it.
    pub snapshot: &'a Path,
    /// The upper layer, in that directory.
    pub upper: &'a Path,
    /// The image's layers, the uppermost first, with colons between them.
    lower: &'a str,
}

impl<'a> Overlay<'a> {
    /// Takes a snapshot's mounts apart.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that says what the mounts are, when they are something else.
    pub fn of(mounts: &'a [Mount]) -> Result<Overlay<'a>> {
        let Some(overlay) = mounts.last().filter(|last| last.type_ == "overlay") else {
            return Err(refusal(mounts, "no overlay is the uppermost"));
        };
        let value = |name: &str| overlay.options.iter().find_map(|option| option.strip_prefix(name));
        let (Some(upper), Some(work), Some(lower)) =
            (value("upperdir="), value("workdir="), value("lowerdir="))
        else {
            return Err(refusal(mounts, "the overlay has not all of upperdir=, workdir= and lowerdir="));
        };
        let upper = Path::new(upper);
        match (upper.parent(), Path::new(work).parent()) {
            (Some(snapshot), Some(work))
                if snapshot == work && snapshot.is_absolute() && snapshot.parent().is_some() =>
            {
                Ok(Overlay { mounts, snapshot, upper, lower })
            }
            _ => Err(refusal(mounts, "upperdir= and workdir= are not in one directory")),
        }
    }

    /// The mounts that show what is in it, and that nobody can write to: the image, and what was `written` to the upper layer.
    pub fn read_only(&self, written: bool) -> Vec<Mount> {
        let mut mounts = self.mounts.to_vec();
        let Some(image) = mounts.last_mut() else { return mounts };
        let lower =
            if written { format!("{}:{}", self.upper.display(), self.lower) } else { self.lower.to_owned() };
        let replaced = ["upperdir=", "workdir=", "lowerdir="];
        let stays = |option: &String| {
            !replaced.iter().any(|name| option.starts_with(name)) && option != "volatile" && option != "rw"
        };
        image.options.retain(stays);
        if lower.contains(':') {
            image.options.extend([format!("lowerdir={lower}"), "ro".to_owned()]);
        } else {
            // An overlay of one layer alone is refused by Linux.
            image.options.retain(|option| option.starts_with("uidmap=") || option.starts_with("gidmap="));
            image.options.extend(["bind", "ro"].map(str::to_owned));
            image.source = lower;
            image.type_ = "bind".to_owned();
        }
        mounts
    }
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
    use super::{super::fake::mount, *};

    fn overlay(options: &[&str]) -> Mount {
        mount("overlay", Path::new("overlay"), options)
    }

    #[test]
    fn an_overlay_without_its_upper_layer_is_the_image() {
        let given =
            [overlay(&["index=off", "workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs"])];
        let overlay = Overlay::of(&given).unwrap();
        assert_eq!((overlay.snapshot, overlay.upper), (Path::new("/s/3"), Path::new("/s/3/fs")));
        let [image] = &overlay.read_only(false)[..] else { panic!("one mount") };
        assert_eq!(image.options, ["index=off", "lowerdir=/s/2/fs:/s/1/fs", "ro"]);
        assert_eq!(image.type_, "overlay");
        let [all] = &overlay.read_only(true)[..] else { panic!("one mount") };
        assert_eq!(all.options, ["index=off", "lowerdir=/s/3/fs:/s/2/fs:/s/1/fs", "ro"]);
    }

    #[test]
    fn a_single_layer_is_bound() {
        let maps = ["uidmap=0:1:1", "gidmap=0:1:1"];
        let given =
            [overlay(&[maps[0], maps[1], "workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/1/fs"])];
        let overlay = Overlay::of(&given).unwrap();
        let [image] = &overlay.read_only(false)[..] else { panic!("one mount") };
        assert_eq!((image.type_.as_str(), image.source.as_str()), ("bind", "/s/1/fs"));
        assert_eq!(image.options, [maps[0], maps[1], "bind", "ro"]);
        let [all] = &overlay.read_only(true)[..] else { panic!("one mount") };
        assert_eq!(all.options, [maps[0], maps[1], "lowerdir=/s/3/fs:/s/1/fs", "ro"]);
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
            let error = Overlay::of(&mounts).unwrap_err().to_string();
            assert!(error.starts_with("rootfs = block: the snapshotter's mounts are ["), "{error}");
        }
    }
}
