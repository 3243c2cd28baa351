//! Devices: the guest has its kernel's own, and none of the host's hardware.

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{GuestBundle, HostDisk, transform::Context};
use crate::error::{Error, Result};

/// Character devices of the kernel that are no hardware, by major and minor: the guest's kernel has them under the same
/// numbers. Source: admin-guide/devices.txt of the kernel.
const KERNELS_DEVICES: [(i64, i64, &str); 9] = [
    (1, 3, "null"),
    (1, 5, "zero"),
    (1, 7, "full"),
    (1, 8, "random"),
    (1, 9, "urandom"),
    (5, 0, "tty"),
    (5, 2, "ptmx"),
    (10, 200, "net/tun"),
    (10, 229, "fuse"),
];

/// As [`KERNELS_DEVICES`], where guests may run virtual machines.
const KVM: (i64, i64, &str) = (10, 232, "kvm");

/// Keeps the devices that the guest has too. Other numbers of the host name nothing, or something else, in the guest. A
/// spec that lists a device and allows its number needs it: a block device becomes a disk of the VM, where the VM is made for the
/// container alone, and another is refused. Other devices (a privileged container lists all that the host has) are dropped.
pub fn hosts(mut bundle: GuestBundle, context: &Context) -> Result<GuestBundle> {
    let Some(linux) = bundle.spec.linux_mut() else { return Ok(bundle) };
    let guests: Vec<_> = KERNELS_DEVICES.into_iter().chain(context.host.kvm.then_some(KVM)).collect();
    let rules =
        linux.resources().as_ref().and_then(|resources| resources.devices().clone()).unwrap_or_default();
    let can_be_disk = |device: &LinuxDevice| context.pod.is_none() && device.typ() == LinuxDeviceType::B;
    let could_be = linux.devices().iter().flatten().filter(|device| can_be_disk(device));
    let disks: Vec<_> = could_be.filter_map(|device| disk(device, &rules)).collect();
    let is_disk = |device: &LinuxDevice| {
        let is = |disk: &HostDisk| (disk.major, disk.minor) == (device.major(), device.minor());
        can_be_disk(device) && disks.iter().any(is)
    };
    let (kept, absent): (Vec<_>, Vec<_>) = (linux.devices().clone().unwrap_or_default().into_iter())
        .partition(|device| is_among(&guests, device) || is_disk(device));
    linux.set_devices(Some(kept));
    // One that has several names is one disk.
    for disk in disks {
        if !bundle.disks.iter().any(|other| (other.major, other.minor) == (disk.major, disk.minor)) {
            bundle.disks.push(disk);
        }
    }
    if let Some(device) = absent.iter().find(|device| allowed_by_number(device, &rules).next().is_some()) {
        let offered: Vec<_> = guests.iter().map(|(_, _, name)| format!("/dev/{name}")).collect();
        return Err(Error::invalid(format!(
            "linux.devices: {} is a device of the host's, which a guest does not have; there are {}, and block devices outside of pods",
            device.path().display(),
            offered.join(", ")
        )));
    }
    let notes =
        absent.iter().map(|d| format!("{} is a device of the host's, and dropped", d.path().display()));
    bundle.notes.extend(notes);
    Ok(bundle)
}

/// A block device as a disk, if it is allowed by its number.
fn disk(device: &LinuxDevice, rules: &[LinuxDeviceCgroup]) -> Option<HostDisk> {
    let mut allowing = allowed_by_number(device, rules).peekable();
    allowing.peek()?;
    let writes =
        |rule: &LinuxDeviceCgroup| rule.access().as_deref().is_none_or(|access| access.contains('w'));
    let path = device.path().clone();
    Some(HostDisk { path, major: device.major(), minor: device.minor(), read_only: !allowing.any(writes) })
}

/// The rules that allow a device by its number.
fn allowed_by_number<'a>(
    device: &LinuxDevice,
    rules: &'a [LinuxDeviceCgroup],
) -> impl Iterator<Item = &'a LinuxDeviceCgroup> {
    let numbers = (Some(device.typ()), Some(device.major()), Some(device.minor()));
    rules.iter().filter(move |rule| rule.allow() && (rule.typ(), rule.major(), rule.minor()) == numbers)
}

fn is_among(guests: &[(i64, i64, &str)], device: &LinuxDevice) -> bool {
    let is_character = matches!(device.typ(), LinuxDeviceType::C | LinuxDeviceType::U);
    let numbers = (device.major(), device.minor());
    is_character && guests.iter().any(|(major, minor, _)| (*major, *minor) == numbers)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::{Value, json};

    use super::{
        super::transform::{Host, to_guest},
        *,
    };

    /// The paths of the devices that the guest gets, and the notes.
    fn devices(devices: Value, rules: Value) -> Result<(Vec<String>, Vec<String>)> {
        with_kvm(false, devices, rules)
    }

    fn with_kvm(kvm: bool, devices: Value, rules: Value) -> Result<(Vec<String>, Vec<String>)> {
        let bundle = bundle(kvm, false, devices, rules)?;
        let devices = bundle.spec.linux().as_ref().and_then(|linux| linux.devices().clone()).unwrap();
        Ok((devices.iter().map(|device| device.path().display().to_string()).collect(), bundle.notes))
    }

    fn bundle(kvm: bool, in_pod: bool, devices: Value, rules: Value) -> Result<GuestBundle> {
        let linux = json!({"devices": devices, "resources": {"devices": rules}});
        let annotations = if in_pod { json!({"io.kubernetes.cri.sandbox-id": "pod"}) } else { json!({}) };
        let spec = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": linux, "annotations": annotations});
        let host = Host {
            name: "node-7".to_owned(),
            resolve: crate::files::pin::Source::resolve,
            containers: HashMap::new(),
            rlimits: Vec::new(),
            oom_score_adj: None,
            kvm,
        };
        to_guest(serde_json::from_value(spec).unwrap(), "c1", &host)
    }

    #[test]
    fn kvm_stays_where_guests_may_run_virtual_machines() {
        let kvm = json!([{"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}]);
        let rules = json!([{"allow": true, "type": "c", "major": 10, "minor": 232, "access": "rwm"}]);
        assert_eq!(with_kvm(true, kvm.clone(), rules.clone()).unwrap().0, ["/dev/kvm"]);
        assert!(devices(kvm, rules).unwrap_err().to_string().contains("/dev/kvm is a device of the host's"));
    }

    #[test]
    fn the_kernels_stay_and_the_hosts_go() {
        let all = json!([{"path": "/dev/other-null", "type": "c", "major": 1, "minor": 3},
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
            {"path": "/dev/block", "type": "b", "major": 1, "minor": 3},
            {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]);
        let everything = json!([{"allow": true, "access": "rwm"}]);
        let (paths, notes) = devices(all, everything).unwrap();
        assert_eq!(paths, ["/dev/other-null", "/dev/fuse"]);
        for path in ["/dev/block", "/dev/sda"] {
            assert!(notes.iter().any(|note| note.starts_with(path)), "{notes:?}");
        }
    }

    #[test]
    fn a_device_that_is_asked_for_by_name_is_refused() {
        let terminal = json!([{"path": "/dev/ttyS0", "type": "c", "major": 4, "minor": 64}]);
        let rule = |minor| json!([{"allow": true, "type": "c", "major": 4, "minor": minor, "access": "r"}]);
        let error = devices(terminal.clone(), rule(64)).unwrap_err().to_string();
        assert!(error.contains("/dev/ttyS0") && error.contains("/dev/net/tun"), "{error}");
        devices(terminal, rule(65)).unwrap();
    }

    #[test]
    fn a_block_device_that_is_asked_for_by_name_is_a_disk_outside_of_pods() {
        let sda = json!([{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]);
        let rule = |minor, access| json!([{"allow": true, "type": "b", "major": 8, "minor": minor, "access": access}]);
        let of = |pod: bool, rules| bundle(false, pod, sda.clone(), rules);
        for (access, read_only) in [("r", true), ("rwm", false)] {
            let disk = HostDisk { path: "/dev/sda".into(), major: 8, minor: 0, read_only };
            assert_eq!(of(false, rule(0, access)).unwrap().disks, [disk]);
        }
        assert_eq!(of(false, rule(1, "rwm")).unwrap().disks, []);
        let error = of(true, rule(0, "rwm")).unwrap_err().to_string();
        assert!(error.contains("/dev/sda") && error.contains("outside of pods"), "{error}");
    }
}
