//! Block devices of the host that a container has: they are disks of the VM, under other numbers.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};
use guest_protocol::api::Disk;
use libcontainer::oci_spec::runtime::{LinuxDeviceType, Spec};

use super::root::device_of;

/// A device's major and minor number.
type Numbers = (i64, i64);

/// Puts the guest's numbers of `disks` into `spec`, in the place of the host's.
///
/// # Errors
/// When the VM has no such disk.
pub fn renumber(spec: &mut Spec, disks: &[Disk]) -> Result<()> {
    let numbers = disks.iter().map(|disk| Ok(((disk.major, disk.minor), numbers_of(&disk.name)?)));
    replace(spec, &numbers.collect::<Result<_>>()?);
    Ok(())
}

fn numbers_of(name: &str) -> Result<Numbers> {
    let device = device_of(name)?;
    let file = format!("/sys/block/{}/dev", device.file_name().unwrap_or_default().display());
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    parse(&text).with_context(|| format!("{file} says {text:?}"))
}

fn parse(text: &str) -> Option<Numbers> {
    let (major, minor) = text.trim_end().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Each number is replaced once: one of the guest's may be another one of the host's.
fn replace(spec: &mut Spec, numbers: &HashMap<Numbers, Numbers>) {
    let Some(linux) = spec.linux_mut().as_mut() else { return };
    let is_block = |kind| kind == LinuxDeviceType::B;
    for device in linux.devices_mut().iter_mut().flatten().filter(|device| is_block(device.typ())) {
        if let Some(&(major, minor)) = numbers.get(&(device.major(), device.minor())) {
            device.set_major(major);
            device.set_minor(minor);
        }
    }
    let Some(resources) = linux.resources_mut().as_mut() else { return };
    for rule in resources.devices_mut().iter_mut().flatten() {
        if rule.typ() == Some(LinuxDeviceType::B)
            && let Some(named) = rule.major().zip(rule.minor())
            && let Some(&(major, minor)) = numbers.get(&named)
        {
            rule.set_major(Some(major));
            rule.set_minor(Some(minor));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn block_devices_and_their_rules_get_the_guests_numbers() {
        let device = |path: &str, kind: &str, major: i64, minor: i64| json!({"path": path, "type": kind, "major": major, "minor": minor});
        let rule = |kind: &str, major: i64| json!({"allow": true, "type": kind, "major": major, "minor": 0, "access": "rwm"});
        let spec = json!({"ociVersion": "1.0.2", "linux": {
            "devices": [device("/dev/a", "b", 7, 0), device("/dev/b", "b", 254, 0), device("/dev/c", "c", 7, 0)],
            "resources": {"devices": [rule("b", 7), rule("b", 254), rule("c", 7), {"allow": false, "access": "rwm"}]},
        }});
        let mut spec: Spec = serde_json::from_value(spec).unwrap();
        replace(&mut spec, &[((7, 0), (254, 0)), ((254, 0), (254, 16))].into());
        let spec = serde_json::to_value(&spec).unwrap();
        let numbers = |list: &serde_json::Value| -> Vec<Option<(i64, i64)>> {
            let of = |entry: &serde_json::Value| Some((entry["major"].as_i64()?, entry["minor"].as_i64()?));
            list.as_array().unwrap().iter().map(of).collect()
        };
        let expected = [Some((254, 0)), Some((254, 16)), Some((7, 0))];
        assert_eq!(numbers(&spec["linux"]["devices"]), expected);
        assert_eq!(numbers(&spec["linux"]["resources"]["devices"])[..3], expected);
    }

    #[test]
    fn the_kernels_file_is_understood() {
        assert_eq!(parse("254:16\n"), Some((254, 16)));
        assert_eq!(parse("254"), None);
    }
}
