//! Ends: of processes, of containers, of the VM, and what a kill leads to.

use containerd_shim_protos::ttrpc::Code;

use super::*;
use crate::sandbox::krun::{container::LAST_WORD, vm::GONE};

#[tokio::test(start_paused = true)]
async fn a_status_beyond_a_byte_is_cut() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.guest.end("pod", 0x1_0105);
    assert_eq!(bed.wait("pod").await.status, 5);
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_ends_without_a_record_is_the_end_of_all_in_it() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.start("a").await;
    let exec = bed.exec("a", "e").await.unwrap();
    let oom = Exit { status: 137, oom_killed: true };
    bed.host.end_vm(oom, "out of memory");
    assert_eq!(bed.wait("pod").await, oom);
    assert_eq!(bed.wait("a").await, oom);
    assert_eq!(bed.sandbox.wait(&exec).await, oom);
}

#[tokio::test(start_paused = true)]
async fn a_kill_before_the_guest_has_made_the_container_needs_no_guest() {
    let bed = Bed::new();
    bed.guest.on("create_container", Act::Silence);
    bed.create("pod").await;
    let (killed, time) = took(bed.kill("pod")).await;
    killed.unwrap();
    assert_ne!(bed.wait("pod").await.status, 0);
    assert!(time < Duration::from_secs(1), "{time:?}");
    bed.sandbox.delete("pod").await;
    bed.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_answers_a_kill_and_tells_no_end_loses_its_vm() {
    for id in ["pod", "a"] {
        let bed = Bed::new();
        bed.start("pod").await;
        bed.start("a").await;
        let (exit, time) = took(async {
            bed.kill(id).await.unwrap();
            bed.wait(id).await
        })
        .await;
        assert_eq!(exit, Exit::KILLED);
        assert!(bed.host.is_over(), "{id} was killed and the VM lives");
        assert!(time <= LAST_WORD + GONE, "{time:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_answer_a_kill_loses_its_vm() {
    for id in ["pod", "a"] {
        let bed = Bed::new();
        bed.start("pod").await;
        bed.start("a").await;
        bed.guest.freeze();
        let ((killed, exit), time) = took(async { tokio::join!(bed.kill(id), bed.wait(id)) }).await;
        killed.unwrap();
        assert_eq!(exit, Exit::KILLED);
        assert!(bed.host.is_over(), "{id} was killed and the VM lives");
        assert!(time <= Duration::from_secs(20), "{time:?}");
        // The pod can be removed, whichever goes first.
        bed.sandbox.delete(id).await;
        bed.sandbox.delete(if id == "a" { "pod" } else { "a" }).await;
        bed.assert_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_kill_that_works_leaves_the_vm() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.start("a").await;
    bed.kill("a").await.unwrap();
    bed.guest.end("a", 137);
    assert_eq!(bed.wait("a").await.status, 137);
    tokio::time::sleep(LAST_WORD * 3).await;
    assert!(!bed.host.is_over());
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_when_the_anchor_has_gone() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.host.let_anchors_linger();
    bed.guest.end("pod", 3);
    let ends = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bed.host.kill_anchor("pod");
    };
    let ((exit, time), ()) = tokio::join!(took(bed.wait("pod")), ends);
    assert_eq!(exit.status, 3);
    assert!(time >= Duration::from_secs(1) && time < Duration::from_secs(2), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_killed_anchor_kills_its_container() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.start("a").await;
    bed.host.kill_anchor("a");
    // The guest hears of it and ends the container.
    while !bed.guest.calls().contains(&"signal a".to_owned()) {
        tokio::task::yield_now().await;
    }
    bed.guest.end("a", 137);
    assert_eq!(bed.wait("a").await.status, 137);
    assert!(!bed.host.is_over());
}

#[tokio::test(start_paused = true)]
async fn a_killed_anchor_of_a_guest_that_does_not_mind_kills_the_vm() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.guest.freeze();
    bed.host.kill_anchor("pod");
    let (exit, time) = took(bed.wait("pod")).await;
    assert_eq!(exit, Exit::KILLED);
    assert!(bed.host.is_over());
    assert!(time <= LAST_WORD * 2 + GONE, "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn execs_that_do_not_end_with_their_container_cost_one_deadline() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.start("a").await;
    let mut execs = Vec::new();
    for name in ["e", "f", "g"] {
        execs.push(bed.exec("a", name).await.unwrap());
    }
    bed.guest.end("a", 0);
    let (_, time) = took(async {
        bed.wait("a").await;
        for exec in &execs {
            assert_eq!(bed.sandbox.wait(exec).await, Exit::KILLED);
        }
        bed.sandbox.delete("a").await;
    })
    .await;
    assert!(time < LAST_WORD * 2, "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn an_exec_that_began_as_its_container_ended_does_not_outlive_it() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.start("a").await;
    bed.guest.end("a", 0);
    bed.wait("a").await;
    let exec = bed.exec("a", "late").await.unwrap();
    let (exit, time) = took(bed.sandbox.wait(&exec)).await;
    assert_eq!(exit, Exit::KILLED);
    assert!(time <= LAST_WORD * 2, "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_killed_exec_whose_end_is_not_told_has_ended() {
    let bed = Bed::new();
    bed.start("pod").await;
    let exec = bed.exec("pod", "e").await.unwrap();
    let (exit, time) = took(async {
        bed.sandbox.signal(&exec, libc::SIGKILL as u32, false).await.unwrap();
        bed.sandbox.wait(&exec).await
    })
    .await;
    assert_eq!(exit, Exit::KILLED);
    assert!(time >= LAST_WORD && time <= LAST_WORD * 2, "{time:?}");
    assert!(!bed.host.is_over(), "an exec takes the VM with it");
    assert!(!bed.guest.calls().contains(&"signal pod".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_exec_that_the_guest_is_late_with_is_killed_there() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.guest.on("exec", Act::Silence);
    assert!(bed.exec("pod", "e").await.unwrap_err().to_string().contains("within"));
    while !bed.guest.calls().contains(&"delete_exec pod/e".to_owned()) {
        tokio::task::yield_now().await;
    }
    assert!(bed.guest.calls().contains(&"signal pod/e".to_owned()));
    assert!(!bed.host.is_over());
}

#[tokio::test(start_paused = true)]
async fn an_exec_ends_by_itself_and_is_forgotten() {
    let bed = Bed::new();
    bed.start("pod").await;
    let exec = bed.exec("pod", "e").await.unwrap();
    bed.guest.end("pod/e", 3);
    assert_eq!(bed.sandbox.wait(&exec).await.status, 3);
    bed.sandbox.delete_exec(&exec).await;
    assert!(bed.guest.calls().contains(&"delete_exec pod/e".to_owned()));
    // Another one may have its name.
    bed.exec("pod", "e").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_exec_that_the_guest_refuses_is_not_there() {
    let bed = Bed::new();
    bed.start("pod").await;
    for code in [Code::NOT_FOUND, Code::UNKNOWN] {
        bed.guest.on("exec", Act::Refuse(code, "no such file"));
        assert!(bed.exec("pod", "e").await.unwrap_err().to_string().contains("no such file"));
        let id = ProcessId { container: "pod".to_owned(), exec: "e".to_owned() };
        assert_eq!(bed.sandbox.wait(&id).await, Exit::UNKNOWN);
    }
    tokio::time::sleep(LAST_WORD * 3).await;
    assert!(!bed.host.is_over());
    assert!(!bed.guest.calls().iter().any(|call| call.starts_with("signal")), "{:?}", bed.guest.calls());
}
