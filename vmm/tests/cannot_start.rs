//! A launched krun-vmm that cannot become a VM, without KVM.

use std::{fs, path::Path, time::Duration};

use nix::unistd::Uid;
use vm_launcher::{ExitStatus, GuestError, Vm, VmConfig, config::MIN_MEMORY_MIB, order};

#[tokio::test]
async fn a_vmm_that_cannot_start_says_why_and_leaves_nothing() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: making namespaces needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let [share, socket_dir] = ["share", "sock"].map(|name| directory.path().join(name));
    fs::create_dir(&share).unwrap();
    fs::create_dir(&socket_dir).unwrap();
    let mut config = VmConfig::new(share, socket_dir, "/etc/passwd", "/etc/passwd");
    config.memory_mib = MIN_MEMORY_MIB;
    let socket = config.socket();
    let vm = Vm::launch_with(Path::new(env!("CARGO_BIN_EXE_krun-vmm")), config).await.unwrap();
    let Err(GuestError::Ended(end)) = vm.guest(Duration::from_secs(60)).await else {
        panic!("a guest without a kernel");
    };
    assert_eq!(end.status, ExitStatus::Exited(order::SETUP_FAILED));
    assert!(end.reason.starts_with("loading libkrunfw: "), "{}", end.reason);
    assert!(!socket.exists());
    assert!(!Path::new("/proc").join(vm.pid().to_string()).exists());
}
