//! User namespaces: what a container's ids are outside of it, and to whom its files belong.

use linux::user_namespace::{IdMaps, MAX_RANGES, Range, outside};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount, Spec};

use crate::error::{Error, Result};

/// That the files of a mount belong to others than on the host: each id of the file system is shown as another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owners {
    /// What an id of the file system is shown as.
    pub maps: IdMaps,
    /// Whether this holds for what is mounted below it as well.
    pub recursive: bool,
}

/// The user namespace that `spec` asks for, if any.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the field, for ids that a namespace cannot have or lacks.
pub fn user_namespace(spec: &Spec) -> Result<Option<IdMaps>> {
    let Some(linux) = spec.linux() else { return Ok(None) };
    let is_asked_for = |of: &oci_spec::runtime::LinuxNamespace| of.typ() == LinuxNamespaceType::User;
    let users = ranges("linux.uidMappings", linux.uid_mappings().as_deref())?;
    let groups = ranges("linux.gidMappings", linux.gid_mappings().as_deref())?;
    if !linux.namespaces().iter().flatten().any(is_asked_for) {
        return match users.is_empty() && groups.is_empty() {
            true => Ok(None),
            false => Err(Error::invalid("linux.uidMappings, linux.gidMappings: they need a user namespace")),
        };
    }
    let user = spec.process().as_ref().map(|process| process.user());
    let (uid, gid) = user.map_or((0, 0), |user| (user.uid(), user.gid()));
    for (field, ranges, id, of) in [
        ("linux.uidMappings", &users, uid, "process.user.uid"),
        ("linux.gidMappings", &groups, gid, "process.user.gid"),
    ] {
        if outside(ranges, 0).is_none() {
            return Err(Error::invalid(format!("{field}: a user namespace needs its root, id 0, mapped")));
        }
        if outside(ranges, id).is_none() {
            return Err(Error::invalid(format!("{of} {id}: {field} does not map it")));
        }
    }
    Ok(Some(IdMaps { users, groups }))
}

/// To whom the files of `mount` belong, a bind in a container with the user namespace `own`; none where they are the host's.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the mount.
pub fn owners(mount: &Mount, own: Option<&IdMaps>) -> Result<Option<Owners>> {
    let has = |wanted: &str| mount.options().iter().flatten().any(|option| option == wanted);
    let place = format!("mount {}", mount.destination().display());
    let users = ranges(&format!("{place}: uidMappings"), mount.uid_mappings().as_deref())?;
    let groups = ranges(&format!("{place}: gidMappings"), mount.gid_mappings().as_deref())?;
    let recursive = has("ridmap");
    let maps = match (users.is_empty(), groups.is_empty()) {
        (true, true) if recursive || has("idmap") => own.cloned().ok_or_else(|| {
            Error::invalid(format!("{place}: idmap needs mappings, its own or a user namespace's"))
        })?,
        (true, true) => return Ok(None),
        (false, false) => IdMaps { users, groups },
        _ => return Err(Error::invalid(format!("{place}: it needs both uidMappings and gidMappings"))),
    };
    Ok(Some(Owners { maps, recursive }))
}

/// Takes out of a mount what [`owners`] reads: the host does it.
pub fn forget_owners(mount: &mut Mount) {
    mount.set_uid_mappings(None);
    mount.set_gid_mappings(None);
    if let Some(options) = mount.options_mut() {
        options.retain(|option| option != "idmap" && option != "ridmap");
    }
}

fn ranges(field: &str, mappings: Option<&[LinuxIdMapping]>) -> Result<Vec<Range>> {
    let mappings = mappings.unwrap_or_default();
    let range =
        |of: &LinuxIdMapping| Range { inside: of.container_id(), outside: of.host_id(), length: of.size() };
    let ranges: Vec<_> = mappings.iter().map(range).collect();
    check(field, &ranges)?;
    Ok(ranges)
}

/// Refuses what the kernel would not take, with a text that says why.
///
/// # Errors
/// `INVALID_ARGUMENT` that names `field`.
pub fn check(field: &str, ranges: &[Range]) -> Result<()> {
    let refuse = |why: String| Err(Error::invalid(format!("{field}: {why}")));
    if ranges.len() > MAX_RANGES {
        return refuse(format!("{} ranges; at most {MAX_RANGES} are allowed", ranges.len()));
    }
    for (number, range) in ranges.iter().enumerate() {
        let Range { inside, outside, length } = *range;
        let ends = |first: u32| first.checked_add(length).is_some();
        if length == 0 || !ends(inside) || !ends(outside) {
            return refuse(format!(
                "{inside}:{outside}:{length} is no range: it needs a length, and ids below 4294967295"
            ));
        }
        let meets = |a: u32, a_length: u32, b: u32| {
            u64::from(a) < u64::from(b) + u64::from(length)
                && u64::from(b) < u64::from(a) + u64::from(a_length)
        };
        let other = ranges[..number].iter().find(|other| {
            meets(other.inside, other.length, inside) || meets(other.outside, other.length, outside)
        });
        if other.is_some() {
            return refuse(format!("{inside}:{outside}:{length} overlaps another range"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn asked(linux: Value, user: Value) -> std::result::Result<Option<IdMaps>, String> {
        let spec = json!({"ociVersion": "1.0.2", "linux": linux,
            "process": {"cwd": "/", "args": ["true"], "user": user}});
        user_namespace(&serde_json::from_value(spec).unwrap()).map_err(|error| error.to_string())
    }

    fn line(inside: u32, outside: u32, length: u32) -> Value {
        json!({"containerID": inside, "hostID": outside, "size": length})
    }

    #[test]
    fn a_user_namespace_has_its_maps() {
        let root = json!({"uid": 0, "gid": 0});
        assert_eq!(asked(json!({"namespaces": [{"type": "pid"}]}), root.clone()), Ok(None));
        let linux = json!({"namespaces": [{"type": "user", "path": "/proc/9/ns/user"}],
            "uidMappings": [line(0, 100_000, 65536)], "gidMappings": [line(0, 7, 10)]});
        let maps = asked(linux, root).unwrap().unwrap();
        assert_eq!(maps.users, [Range { inside: 0, outside: 100_000, length: 65536 }]);
        assert_eq!(maps.groups, [Range { inside: 0, outside: 7, length: 10 }]);
    }

    #[test]
    fn what_cannot_be_mapped_is_named() {
        let good = json!([line(0, 100_000, 65536)]);
        for (users, groups, user, words) in [
            (json!([]), good.clone(), 0, "linux.uidMappings: a user namespace needs its root"),
            (good.clone(), json!([line(1, 1, 1)]), 0, "linux.gidMappings: a user namespace needs its root"),
            (good.clone(), good.clone(), 65536, "process.user.uid 65536: linux.uidMappings"),
            (json!([line(0, 1, 0)]), good.clone(), 0, "0:1:0 is no range"),
            (json!([line(0, u32::MAX, 2)]), good.clone(), 0, "0:4294967295:2 is no range"),
            (json!([line(0, 1, 10), line(9, 100, 1)]), good.clone(), 0, "9:100:1 overlaps"),
            (json!([line(0, 1, 10), line(10, 10, 1)]), good.clone(), 0, "10:10:1 overlaps"),
            (Value::Array((0..341).map(|id| line(id, id, 1)).collect()), good.clone(), 0, "at most 340"),
        ] {
            let linux =
                json!({"namespaces": [{"type": "user"}], "uidMappings": users, "gidMappings": groups});
            let refused = asked(linux, json!({"uid": user, "gid": 0})).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
        let without = json!({"namespaces": [], "uidMappings": good, "gidMappings": good});
        assert!(asked(without, json!({"uid": 0, "gid": 0})).unwrap_err().contains("need a user namespace"));
    }

    #[test]
    fn a_mounts_owners_are_its_own_or_the_containers() {
        let range = |outside| vec![Range { inside: 0, outside, length: 10 }];
        let own = IdMaps { users: range(5), groups: range(5) };
        let of = |options: &[&str], maps: Option<u32>, own: Option<&IdMaps>| {
            let mut mount = json!({"destination": "/data", "source": "/srv", "options": options});
            if let Some(outside) = maps {
                mount["uidMappings"] = json!([line(0, outside, 10)]);
                mount["gidMappings"] = json!([line(0, outside, 10)]);
            }
            let mut mount: Mount = serde_json::from_value(mount).unwrap();
            let owners = owners(&mount, own).map_err(|error| error.to_string());
            forget_owners(&mut mount);
            assert!(mount.uid_mappings().is_none());
            assert_eq!(mount.options().as_deref().unwrap(), ["rbind"]);
            owners
        };
        assert_eq!(of(&["rbind"], None, Some(&own)), Ok(None), "a volume without mappings is the host's");
        let mapped = of(&["rbind"], Some(7), Some(&own)).unwrap().unwrap();
        assert_eq!(mapped, Owners { maps: IdMaps { users: range(7), groups: range(7) }, recursive: false });
        let implied = of(&["rbind", "ridmap"], None, Some(&own)).unwrap().unwrap();
        assert_eq!(implied, Owners { maps: own.clone(), recursive: true });
        assert!(
            of(&["rbind", "idmap"], None, None).unwrap_err().contains("mount /data: idmap needs mappings")
        );
    }
}
