//! Reaping any child. In a process of its own: it would take the children of other tests.

use std::{os::unix::process::CommandExt, process::Command};

use linux::wait::{ExitStatus, reap_now};

#[test]
fn a_child_in_a_process_group_of_its_own_is_reaped_as_well() {
    #[expect(clippy::zombie_processes, reason = "what is tested reaps it")]
    let child = Command::new("/bin/sh").args(["-c", "exit 3"]).process_group(0).spawn().unwrap();
    let (pid, how) = loop {
        if let Some(reaped) = reap_now(None).unwrap() {
            break reaped;
        }
        std::thread::yield_now();
    };
    assert_eq!((pid.as_raw() as u32, how), (child.id(), ExitStatus::Exited(3)));
}
