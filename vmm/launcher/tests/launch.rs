//! Launching a vmm, without KVM: what the caller sees of a vmm that fails, stalls or is killed,
//! and that nothing is left of it. The vmm is a shell script.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::{Pid, Uid};
use vm_launcher::{GuestError, How, Network, Vm, VmConfig};

/// For a launch that comes to no program.
const NO_VMM: &str = "/nonexistent/krun-vmm";

/// A directory for one test, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    /// `None`, with a word on why, where the test cannot run.
    fn new(name: &str) -> Option<Scratch> {
        if !Uid::effective().is_root() {
            eprintln!("skipped: {name} makes namespaces, which needs root");
            return None;
        }
        let directory = std::env::temp_dir().join(format!("vmm-{name}-{}", std::process::id()));
        fs::create_dir_all(directory.join("share")).unwrap();
        fs::create_dir_all(directory.join("sock")).unwrap();
        Some(Scratch(directory))
    }

    fn config(&self) -> VmConfig {
        VmConfig {
            cpus: 1,
            memory_mib: 128,
            share: self.0.join("share"),
            socket_dir: self.0.join("sock"),
            mount_namespace: None,
            cgroup: None,
            netns: None,
            network: Network::None,
            libkrunfw: "/etc/passwd".into(),
            guest_init: "/etc/passwd".into(),
            debug: false,
            debug_console: None,
        }
    }

    /// An executable that stands in for krun-vmm.
    fn script(&self, text: &str) -> PathBuf {
        let path = self.0.join("vmm.sh");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn socket_exists(&self) -> bool {
        self.config().socket().exists()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn exists(pid: Pid) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[tokio::test]
async fn the_process_has_its_own_namespaces_and_can_be_killed() {
    let Some(scratch) = Scratch::new("kill") else { return };
    let script = scratch.script("cat <&3 >&2; exec sleep 1000");
    let vm = Vm::launch_with(&script, scratch.config()).await.unwrap();
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/pid")).unwrap();
    assert_ne!(namespace(&vm.pid().to_string()), namespace("self"));
    vm.kill();
    vm.kill();
    let end = vm.ended().await;
    assert_eq!((end.how, end.reason.as_str()), (How::Killed(9), "the vmm was killed as asked"));
}

#[tokio::test]
async fn a_dropped_vm_is_killed_and_reaped() {
    let Some(scratch) = Scratch::new("drop") else { return };
    let script = scratch.script("exec sleep 1000");
    let vm = Vm::launch_with(&script, scratch.config()).await.unwrap();
    let pid = vm.pid();
    drop(vm);
    tokio::time::timeout(Duration::from_secs(10), async {
        while exists(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(!scratch.socket_exists());
}

#[tokio::test]
async fn its_last_words_are_kept_and_bounded() {
    let Some(scratch) = Scratch::new("words") else { return };
    let script = scratch.script("for i in $(seq 100); do echo line $i >&2; done; exit 3");
    let vm = Vm::launch_with(&script, scratch.config()).await.unwrap();
    let (one, two) = tokio::join!(vm.ended(), vm.ended());
    assert_eq!(one.how, How::Exited(3));
    assert_eq!(one.last_words.len(), 20);
    assert_eq!(two.reason, "the vmm ended (exit status 3): line 100");
}

#[tokio::test]
async fn a_guest_that_does_not_dial_in_time_is_an_error() {
    let Some(scratch) = Scratch::new("silent") else { return };
    let script = scratch.script("exec sleep 1000");
    let vm = Vm::launch_with(&script, scratch.config()).await.unwrap();
    let error = vm.guest(Duration::from_millis(50)).await.err().unwrap();
    assert!(matches!(error, GuestError::Timeout(_)), "{error}");
    assert!(!scratch.socket_exists());
    assert!(matches!(vm.guest(Duration::from_secs(1)).await, Err(GuestError::Taken)));
}

#[tokio::test]
async fn a_configuration_that_is_wrong_starts_nothing() {
    let Some(scratch) = Scratch::new("config") else { return };
    let config = VmConfig { cpus: 17, ..scratch.config() };
    let error = Vm::launch_with(Path::new(NO_VMM), config).await.err().unwrap();
    assert_eq!(error.to_string(), "cpus = 17: must be 1 to 16");
    let config = VmConfig { netns: Some("/proc/self/ns/none".into()), ..scratch.config() };
    let error = Vm::launch_with(Path::new(NO_VMM), config).await.err().unwrap();
    assert_eq!(error.to_string(), "opening the network namespace /proc/self/ns/none");
    let config = VmConfig { cgroup: Some("/sys/fs/cgroup/none".into()), ..scratch.config() };
    let error = Vm::launch_with(Path::new(NO_VMM), config).await.err().unwrap();
    assert_eq!(error.to_string(), "opening the cgroup /sys/fs/cgroup/none");
    assert!(!scratch.socket_exists());
}
