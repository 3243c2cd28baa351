//! Deletes, in any order and state.

use std::sync::atomic::Ordering;

use super::*;
use crate::sandbox::krun::vm::GONE;

#[tokio::test(start_paused = true)]
async fn members_and_sandbox_are_deleted_in_any_order() {
    for order in [["a", "b", "pod"], ["pod", "a", "b"], ["b", "pod", "a"]] {
        let bed = Bed::new();
        for id in ["pod", "a", "b"] {
            bed.start(id).await;
        }
        for id in ["a", "b", "pod"] {
            bed.guest.end(id, 0);
            bed.wait(id).await;
        }
        for id in order {
            bed.sandbox.delete(id).await;
        }
        bed.assert_clean().await;
        assert!(bed.host.is_over());
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_goes_leaves_the_guest() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.start("a").await;
    bed.guest.end("a", 0);
    bed.wait("a").await;
    bed.sandbox.delete("a").await;
    assert!(bed.guest.calls().contains(&"delete_container a".to_owned()));
    assert!(!bed.host.is_over());
    // A new one of the same name comes.
    bed.create("a").await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_let_a_member_go_loses_its_vm() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.start("a").await;
    bed.guest.end("a", 0);
    bed.wait("a").await;
    bed.guest.freeze();
    let ((), time) = took(bed.sandbox.delete("a")).await;
    assert!(bed.host.is_over());
    assert!(time <= Duration::from_secs(60), "{time:?}");
    assert_eq!(bed.wait("pod").await, Exit::KILLED);
}

#[tokio::test(start_paused = true)]
async fn a_vmm_that_does_not_go_holds_up_no_delete() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.guest.end("pod", 0);
    bed.wait("pod").await;
    bed.host.0.undead.store(true, Ordering::Relaxed);
    let ((), time) = took(bed.sandbox.delete("pod")).await;
    assert!(time <= GONE * 2, "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_not_found() {
    let bed = Bed::new();
    bed.sandbox.delete("none").await;
    let none = ProcessId::init("none");
    bed.sandbox.delete_exec(&none).await;
    assert_eq!(bed.sandbox.wait(&none).await, Exit::UNKNOWN);
    let not_found = containerd_shim_protos::ttrpc::Code::NOT_FOUND;
    assert_eq!(bed.sandbox.start("none").await.unwrap_err().code(), not_found);
    assert_eq!(bed.sandbox.stats("none").await.unwrap_err().code(), not_found);
    assert_eq!(bed.sandbox.close_stdin(&none).await.unwrap_err().code(), not_found);
    assert_eq!(bed.kill("none").await.unwrap_err().code(), not_found);
    bed.start("pod").await;
    let exec = ProcessId { container: "pod".to_owned(), exec: "none".to_owned() };
    assert_eq!(bed.sandbox.close_stdin(&exec).await.unwrap_err().code(), not_found);
}
