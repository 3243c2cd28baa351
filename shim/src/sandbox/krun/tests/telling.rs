//! What is told of a VM that was of no more use: one reason, and none where its end was wanted.

use std::sync::atomic::Ordering;

use super::*;
use crate::report::Failure;

/// What has been told when the container "pod" has ended, to which `happens` leads.
async fn told(bed: &Bed, happens: impl AsyncFnOnce(&Bed)) -> Option<Failure> {
    bed.create("pod").await;
    let vm = bed.sandbox.vm().await.unwrap();
    let _ = bed.sandbox.start("pod").await;
    happens(bed).await;
    bed.wait("pod").await;
    bed.sandbox.delete("pod").await;
    vm.told()
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_wanted_is_no_failure() {
    assert_eq!(told(&Bed::new(), async |bed| bed.guest.end("pod", 3)).await, None);
    let killed = async |bed: &Bed| {
        bed.kill("pod").await.unwrap();
        bed.guest.end("pod", 137);
    };
    assert_eq!(told(&Bed::new(), killed).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_ends_by_itself_has_died_or_had_too_little_memory() {
    let died = async |bed: &Bed| bed.host.end_vm(Exit::KILLED, "it was killed");
    assert_eq!(told(&Bed::new(), died).await, Some(Failure::Died));
    let oom = Exit { oom_killed: true, ..Exit::KILLED };
    let full = async |bed: &Bed| bed.host.end_vm(oom, "out of memory");
    assert_eq!(told(&Bed::new(), full).await, Some(Failure::Memory));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_says_no_more_is_told_from_a_vm_that_died() {
    let silent = async |bed: &Bed| bed.guest.vanish();
    assert_eq!(told(&Bed::new(), silent).await, Some(Failure::Connection));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_breaks_the_protocol_is_told() {
    let bed = Bed::new();
    bed.host.0.broken.store(true, Ordering::Relaxed);
    // No frame begins so.
    let breaks = async |bed: &Bed| bed.guest.write(&[0xff; 64]).await;
    assert_eq!(told(&bed, breaks).await, Some(Failure::Protocol));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_answer_a_kill_is_told() {
    let frozen = async |bed: &Bed| {
        bed.guest.freeze();
        bed.kill("pod").await.unwrap();
    };
    assert_eq!(told(&Bed::new(), frozen).await, Some(Failure::Unresponsive));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_dials_has_failed_to_boot() {
    let bed = Bed::new();
    bed.host.0.mute.store(true, Ordering::Relaxed);
    assert_eq!(told(&bed, async |_| {}).await, Some(Failure::Boot));
}
