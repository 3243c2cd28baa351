//! Creating and starting.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_life_from_create_to_delete() {
    let bed = Bed::new();
    assert_eq!(bed.create("pod").await, PID);
    bed.sandbox.start("pod").await.unwrap();
    bed.guest.end("pod", 7);
    assert_eq!(bed.wait("pod").await, Exit { status: 7, oom_killed: false });
    bed.sandbox.delete("pod").await;
    assert_eq!(
        bed.host.diary(),
        [
            "cgroup", "rootfs", "anchor", "limit", "-limit", "seat", "machine", "launch", "share", "way",
            "-way", "-seat", "-share", "-machine", "-launch", "-rootfs", "-cgroup", "-anchor"
        ]
    );
    let calls = bed.guest.calls();
    let calls: Vec<_> = calls.iter().map(String::as_str).filter(|call| *call != "set_clock").collect();
    assert_eq!(calls, ["configure", "create_container pod", "wait pod", "start pod"]);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_undoes_those_before_it_and_a_new_create_works() {
    for step in ["cgroup", "rootfs", "anchor", "limit", "seat", "machine", "launch", "share", "way"] {
        let bed = Bed::new();
        *bed.host.0.fails.lock().unwrap() = step;
        let annotations = json!({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}});
        let error = bed.create_with("pod", annotations).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{step} fails"));
        bed.assert_clean().await;
        bed.start("pod").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_bundle_makes_nothing() {
    let bed = Bed::new();
    let error = bed.create_with("pod", json!({"annotations": {"io.containerd.krun.vcpu": "1"}})).await;
    assert!(error.unwrap_err().to_string().contains("vcpu"));
    assert_eq!(bed.host.diary(), [""; 0]);
}

/// A hook that adds a line to a file.
fn hook(line: &str, file: &std::path::Path, status: i32) -> Value {
    let script = format!("echo {line} >>{}; exit {status}", file.display());
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
}

#[tokio::test]
async fn hooks_that_began_are_followed_by_those_after_the_end() {
    let bed = Bed::new();
    let told = bed.bundles.path().join("told");
    let create = |status| json!({"hooks": {"createRuntime": hook("create", &told, status), "poststop": hook("stop", &told, 0)}});
    let heard = || std::fs::read_to_string(&told).unwrap_or_default();
    bed.create_with("pod", create(1)).await.unwrap_err();
    assert_eq!(heard(), "create\nstop\n");
    bed.assert_clean().await;
    *bed.host.0.fails.lock().unwrap() = "anchor";
    bed.create_with("pod", create(0)).await.unwrap_err();
    assert_eq!(heard(), "create\nstop\n", "no hook began");
    *bed.host.0.fails.lock().unwrap() = "share";
    bed.create_with("pod", create(0)).await.unwrap_err();
    assert_eq!(heard(), "create\nstop\ncreate\nstop\n");
    bed.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_container_joins_the_vm() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.start("a").await;
    let launches = bed.host.diary().iter().filter(|entry| *entry == "launch").count();
    assert_eq!(launches, 1);
    // What a member's failing create undoes is its own.
    *bed.host.0.fails.lock().unwrap() = "share";
    bed.create_with("b", json!({})).await.unwrap_err();
    assert!(!bed.host.is_over());
    bed.guest.end("a", 0);
    assert_eq!(bed.wait("a").await.status, 0);
}

#[tokio::test(start_paused = true)]
async fn a_members_ports_must_fit_the_network() {
    let bed = Bed::new();
    bed.start("pod").await;
    *bed.host.0.network.lock().unwrap() = crate::network::Choice::Tsi;
    let ports = json!({"annotations": {"io.containerd.krun.ports": "18181:80/udp"}});
    let error = bed.create_with("a", ports).await.unwrap_err().to_string();
    assert!(error.contains("udp"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_the_guest_refuses_to_make_is_told_by_start() {
    let bed = Bed::new();
    bed.guest.on("create_container", Act::Refuse(containerd_shim_protos::ttrpc::Code::UNKNOWN, "it cannot"));
    bed.create("pod").await;
    let error = bed.sandbox.start("pod").await.unwrap_err();
    assert!(error.to_string().contains("it cannot"), "{error}");
    assert_ne!(bed.wait("pod").await.status, 0);
    bed.sandbox.delete("pod").await;
    bed.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_waits_for_the_start_is_launched_by_it() {
    let bed = Bed::new();
    *bed.host.0.network.lock().unwrap() = crate::network::Choice::TapAtStart;
    bed.create("pod").await;
    assert!(!bed.host.diary().contains(&"launch".to_owned()));
    let error = bed.exec("pod", "e").await.unwrap_err().to_string();
    assert!(error.contains("not started"), "{error}");
    bed.sandbox.start("pod").await.unwrap();
    assert!(bed.host.diary().contains(&"launch".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_waits_for_the_start_can_be_killed_and_deleted() {
    let bed = Bed::new();
    *bed.host.0.network.lock().unwrap() = crate::network::Choice::TapAtStart;
    bed.create("pod").await;
    bed.kill("pod").await.unwrap();
    assert_ne!(bed.wait("pod").await.status, 0);
    bed.sandbox.delete("pod").await;
    bed.assert_clean().await;
    // A launch that fails at the start ends the container.
    bed.create("pod").await;
    *bed.host.0.fails.lock().unwrap() = "launch";
    bed.sandbox.start("pod").await.unwrap_err();
    assert_ne!(bed.wait("pod").await.status, 0);
    bed.sandbox.delete("pod").await;
    bed.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_comes_before_the_start_is_joined_then() {
    use std::sync::atomic::Ordering;
    let bed = Bed::new();
    *bed.host.0.network.lock().unwrap() = crate::network::Choice::Spare;
    let joins = |bed: &Bed| bed.guest.calls().iter().filter(|call| *call == "join").count();
    bed.start("pod").await;
    assert_eq!(joins(&bed), 0, "nothing had come");

    let bed = Bed::new();
    *bed.host.0.network.lock().unwrap() = crate::network::Choice::Spare;
    bed.create("pod").await;
    bed.host.0.interface_has_come.store(true, Ordering::Relaxed);
    bed.sandbox.start("pod").await.unwrap();
    let calls = bed.guest.calls();
    let at = |wanted: &str| calls.iter().rposition(|call| call == wanted);
    assert!(at("join").is_some() && at("join") < at("start pod"), "{calls:?}");
    // A member's start joins nothing.
    bed.start("a").await;
    assert_eq!(joins(&bed), 1);
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_cannot_be_joined_fails_the_start() {
    use std::sync::atomic::Ordering;
    let bed = Bed::new();
    *bed.host.0.network.lock().unwrap() = crate::network::Choice::Spare;
    bed.host.0.interface_has_come.store(true, Ordering::Relaxed);
    let refusal = Act::Refuse(containerd_shim_protos::ttrpc::Code::UNKNOWN, "no NIC");
    for (host, guest, words) in [("join", None, "join fails"), ("", Some(refusal), "no NIC")] {
        *bed.host.0.fails.lock().unwrap() = host;
        guest.into_iter().for_each(|act| bed.guest.on("join", act));
        bed.create("pod").await;
        let error = bed.sandbox.start("pod").await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_ne!(bed.wait("pod").await.status, 0);
        bed.sandbox.delete("pod").await;
        bed.assert_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_vm_is_protected_as_its_most_protected_container_is() {
    use std::sync::atomic::Ordering;
    let bed = Bed::new();
    let with = |score: i32| {
        json!({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}, "process": {
            "cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}, "oomScoreAdj": score,
        }})
    };
    let score = || bed.host.0.oom_score_adj.load(Ordering::Relaxed);
    bed.create_with("pod", with(-998)).await.unwrap();
    assert_eq!(score(), 0);
    bed.create_with("a", with(500)).await.unwrap();
    assert_eq!(score(), 500);
    bed.create_with("b", with(100)).await.unwrap();
    assert_eq!(score(), 100);
    bed.guest.end("b", 0);
    bed.wait("b").await;
    bed.sandbox.delete("b").await;
    assert_eq!(score(), 500);
}
