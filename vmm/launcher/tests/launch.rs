//! The launch of a vmm, without KVM: what the caller sees when the vmm fails, stalls or is killed. Nothing may be left
//! of it. A shell script takes the place of krun-vmm.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::unistd::{Pid, Uid};
use vm_launcher::{ExitStatus, GuestError, Vm, VmConfig, config::MIN_MEMORY_MIB};

/// The program of a launch that fails before it starts one.
const NO_VMM: &str = "/nonexistent/krun-vmm";

/// A directory for one test, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    /// `None`, and a message that says why, where the test cannot run.
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
        let [share, sockets] = ["share", "sock"].map(|name| self.0.join(name));
        VmConfig { memory_mib: MIN_MEMORY_MIB, ..VmConfig::new(share, sockets, "/etc/passwd", "/etc/passwd") }
    }

    /// An executable in place of krun-vmm.
    /// Another process writes it: a child that another test forks meanwhile would hold this one's descriptor, and a
    /// file that is open for writing cannot be executed.
    fn script(&self, text: &str) -> PathBuf {
        let path = self.0.join("vmm.sh");
        let write = r#"printf '#!/bin/sh\n%s\n' "$2" >"$1" && chmod 755 "$1""#;
        let written =
            Command::new("/bin/sh").args(["-c", write, "write"]).arg(&path).arg(text).status().unwrap();
        assert!(written.success());
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
    assert_eq!((end.status, end.reason.as_str()), (ExitStatus::Killed(9), "the vmm was killed as asked"));
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
async fn its_last_lines_are_kept_and_bounded() {
    let Some(scratch) = Scratch::new("lines") else { return };
    let script = scratch.script("cat <&3 >/dev/null; for i in $(seq 100); do echo line $i >&2; done; exit 3");
    let vm = Vm::launch_with(&script, scratch.config()).await.unwrap();
    let (one, two) = tokio::join!(vm.ended(), vm.ended());
    assert_eq!(one.status, ExitStatus::Exited(3));
    assert_eq!(one.last_lines.len(), 20);
    assert_eq!(two.reason, "the vmm ended (exit status 3): line 100");
}

#[tokio::test]
async fn the_end_is_announced_while_somebody_else_holds_stderr() {
    let Some(scratch) = Scratch::new("stderr") else { return };
    let script = scratch.script("exec sleep 1000");
    let vm = Vm::launch_with(&script, scratch.config()).await.unwrap();
    let held = fs::File::options().write(true).open(format!("/proc/{}/fd/2", vm.pid())).unwrap();
    vm.kill();
    let end = tokio::time::timeout(Duration::from_secs(10), vm.ended()).await.unwrap();
    assert_eq!(end.status, ExitStatus::Killed(9));
    drop(held);
}

#[tokio::test]
async fn a_vmm_that_closes_its_stderr_is_reaped_when_it_ends() {
    let Some(scratch) = Scratch::new("closed") else { return };
    let script = scratch.script("cat <&3 >/dev/null; echo bye >&2; exec 2>&-; exit 5");
    let vm = Vm::launch_with(&script, scratch.config()).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(10), vm.ended()).await.unwrap();
    assert_eq!((end.status, end.last_lines), (ExitStatus::Exited(5), vec!["bye".to_owned()]));
}

#[tokio::test]
async fn a_guest_that_does_not_connect_in_time_is_an_error() {
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
