//! Guests that are silent, slow, die, or break the protocol, at each point where they are needed.

use std::sync::atomic::Ordering;

use super::*;
use crate::sandbox::krun::vm::{BOOT, CALL, GONE};

/// Longer than any call waits for a guest that does not live.
const PATIENCE: Duration = Duration::from_secs(45);

/// Does `call` with the container "pod", which runs.
async fn call(bed: &Bed, call: &str) -> Result<()> {
    let pod = ProcessId::init("pod");
    match call {
        "exec" => bed.exec("pod", "e").await.map(drop),
        "signal" => bed.sandbox.signal(&pod, libc::SIGTERM as u32, false).await,
        "resize" => bed.sandbox.resize(&pod, 80, 25).await,
        "pause" => bed.sandbox.pause("pod").await,
        "resume" => bed.sandbox.resume("pod").await,
        "update" => bed.sandbox.update("pod", br#"{"pids":{"limit":7}}"#.to_vec()).await,
        "stats" => bed.sandbox.stats("pod").await.map(|stats| assert_eq!(stats.pids_current, 3)),
        other => unreachable!("{other}"),
    }
}

const CALLS: [&str; 7] = ["exec", "signal", "resize", "pause", "resume", "update", "stats"];

#[tokio::test(start_paused = true)]
async fn a_good_guest_does_what_it_is_asked() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.sandbox.close_stdin(&ProcessId::init("pod")).await.unwrap();
    for name in CALLS {
        call(&bed, name).await.unwrap();
        assert!(bed.guest.calls().iter().any(|call| call.starts_with(name)), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_beyond_the_vm_are_refused_and_the_guest_is_not_asked() {
    let bed = Bed::new();
    bed.start("pod").await;
    let much = br#"{"memory":{"limit":1099511627776}}"#.to_vec();
    assert!(bed.sandbox.update("pod", much).await.unwrap_err().to_string().contains("MiB"));
    assert!(!bed.guest.calls().contains(&"update pod".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_live_fails_each_call_in_time_and_loses_its_vm() {
    for name in CALLS {
        let bed = Bed::new();
        bed.start("pod").await;
        bed.guest.freeze();
        let (result, time) = took(call(&bed, name)).await;
        let error = result.unwrap_err().to_string();
        assert!(error.contains("its VM is killed"), "{name}: {error}");
        assert!(bed.host.is_over(), "{name}");
        assert!(time <= PATIENCE, "{name}: {time:?}");
        assert_eq!(bed.wait("pod").await, Exit::KILLED);
        bed.sandbox.delete("pod").await;
        bed.assert_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_lives_but_does_not_finish_a_call_keeps_its_vm() {
    for (name, silent) in CALLS.iter().zip(CALLS) {
        let bed = Bed::new();
        bed.start("pod").await;
        bed.guest.on(silent, Act::Silence);
        let (result, time) = took(call(&bed, name)).await;
        let error = result.unwrap_err().to_string();
        assert!(error.contains("within"), "{name}: {error}");
        assert!(!bed.host.is_over(), "{name}");
        assert!(time >= CALL && time <= PATIENCE, "{name}: {time:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_dials_is_given_up() {
    let bed = Bed::new();
    bed.host.0.mute.store(true, Ordering::Relaxed);
    bed.create("pod").await;
    let (result, time) = took(bed.sandbox.start("pod")).await;
    assert!(result.unwrap_err().to_string().contains("did not dial"));
    assert!(time <= BOOT + GONE, "{time:?}");
    assert!(bed.host.is_over());
    assert_ne!(bed.wait("pod").await.status, 0);
    bed.sandbox.delete("pod").await;
    bed.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_dies_or_keeps_silent_on_its_way_up_ends_its_container() {
    for act in [Act::Vanish, Act::Silence] {
        for point in ["configure", "create_container", "start", "wait"] {
            let bed = Bed::new();
            bed.create("other").await;
            bed.guest.on(point, act.clone());
            if matches!(act, Act::Silence) {
                bed.guest.on("set_clock", Act::Silence);
            }
            let (_, time) = took(async {
                let _ = bed.create_with("pod", json!({})).await;
                let started = bed.sandbox.start("pod").await;
                if started.is_ok() {
                    bed.kill("pod").await.unwrap();
                }
                assert_ne!(bed.wait("pod").await.status, 0, "{act:?} at {point}");
                bed.sandbox.delete("pod").await;
                bed.sandbox.delete("other").await;
            })
            .await;
            assert!(time <= BOOT + PATIENCE * 2, "{act:?} at {point}: {time:?}");
            bed.assert_clean().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_breaks_the_protocol_loses_its_vm() {
    let bed = Bed::new();
    bed.host.0.broken.store(true, Ordering::Relaxed);
    bed.start("pod").await;
    assert!(!bed.host.is_over());
    bed.guest.write(&[0xff; 64]).await;
    let (exit, time) = took(bed.wait("pod")).await;
    assert_eq!(exit, Exit::KILLED);
    assert!(bed.host.is_over());
    // Five seconds are what a server of this process takes over its end; a VM's connections end with it.
    assert!(time <= Duration::from_secs(5), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_crashes_in_a_call_fails_it_with_its_vms_reason() {
    let bed = Bed::new();
    bed.start("pod").await;
    bed.guest.on("pause", Act::Vanish);
    let crash = async {
        // The connections go first.
        tokio::time::sleep(Duration::from_millis(500)).await;
        bed.host.end_vm(Exit::UNKNOWN, "its kernel panicked");
    };
    let (error, ()) = tokio::join!(call(&bed, "pause"), crash);
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("its kernel panicked: the connection to the guest"), "{error}");
    assert_eq!(bed.wait("pod").await, Exit::UNKNOWN, "it was not killed before it could say why");
}
