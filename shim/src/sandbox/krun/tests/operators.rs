use super::*;
use crate::config::{OptionsAuthor, RuntimeOptions};

impl Bed {
    /// Starts the pod's sandbox container, whose administrator allows operators' processes in it.
    async fn start_open(&self) {
        let root = self.bundles.path().join("root");
        for point in ["dev", "proc", "sys"] {
            std::fs::create_dir_all(root.join(point)).unwrap();
        }
        let options = RuntimeOptions {
            config_body: Some(format!("operator_root = {:?}", root.display().to_string())),
            author: OptionsAuthor::Krunctl,
            ..RuntimeOptions::default()
        };
        let bundle = self.bundle("pod", json!({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}));
        self.sandbox
            .create(NewContainer { id: "pod".to_owned(), bundle, options, ..Default::default() })
            .await
            .unwrap();
        self.sandbox.start("pod").await.unwrap();
    }

    async fn operate(&self, container: &str) -> Result<ProcessId> {
        let id = ProcessId { container: container.to_owned(), exec: "e".to_owned() };
        let process = NewProcess { process: br#"{"operatorsProcess": {}}"#.to_vec(), is_operators: true };
        self.sandbox.exec(&id, process, StdioPaths::default()).await?;
        Ok(id)
    }
}

#[tokio::test(start_paused = true)]
async fn an_operators_process_is_a_container_of_the_guest() {
    let bed = Bed::new();
    bed.start_open().await;
    let before = bed.host.left();
    let id = bed.operate("pod").await.unwrap();
    assert!(bed.host.left().contains(&"share read-only".to_owned()), "{:?}", bed.host.left());
    bed.sandbox.resize(&id, 80, 24).await.unwrap();
    bed.sandbox.signal(&id, 15, false).await.unwrap();
    bed.guest.end("operator..e", 3);
    assert_eq!(bed.sandbox.wait(&id).await.status, 3);
    bed.sandbox.delete_exec(&id).await;
    let calls = bed.guest.calls();
    for call in [
        "create_container operator..e",
        "start operator..e",
        "resize operator..e",
        "signal operator..e",
        "delete_container operator..e",
    ] {
        assert!(calls.contains(&call.to_owned()), "no {call}: {calls:?}");
    }
    assert!(!calls.iter().any(|call| call.starts_with("exec") || call.contains("/e")), "{calls:?}");
    assert_eq!(bed.host.left(), before);
    // Another one may have its name.
    bed.operate("pod").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_operator_needs_the_administrators_leave_and_the_sandboxs_id() {
    let bed = Bed::new();
    bed.start_open().await;
    bed.start("a").await;
    let error = bed.operate("a").await.unwrap_err().to_string();
    assert!(error.contains("sandbox pod"), "{error}");

    let bed = Bed::new();
    bed.start("pod").await;
    let error = bed.operate("pod").await.unwrap_err().to_string();
    assert!(error.contains("operator_root"), "{error}");
    assert!(!bed.guest.calls().iter().any(|call| call.contains("operator")));
}

#[tokio::test(start_paused = true)]
async fn what_a_guest_makes_of_it_leaves_nothing() {
    for call in ["create_container", "start", "delete_container"] {
        let bed = Bed::new();
        bed.start_open().await;
        let before = bed.host.left();
        bed.guest.on(call, Act::Refuse(containerd_shim_protos::ttrpc::Code::INTERNAL, "no"));
        let made = bed.operate("pod").await;
        assert_eq!(made.is_err(), call != "delete_container");
        if let Ok(id) = made {
            bed.guest.end("operator..e", 0);
            bed.sandbox.wait(&id).await;
        }
        assert_eq!(bed.host.left(), before, "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_sandbox() {
    let bed = Bed::new();
    bed.start_open().await;
    let id = bed.operate("pod").await.unwrap();
    bed.guest.end("pod", 0);
    let (_, time) = took(async {
        bed.wait("pod").await;
        bed.sandbox.wait(&id).await;
        bed.sandbox.delete("pod").await;
    })
    .await;
    assert!(time < Duration::from_secs(1), "{time:?}");
    bed.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_called_as_it_might_be_is_another() {
    let bed = Bed::new();
    bed.start_open().await;
    bed.start("operator.e").await;
    bed.guest.on("create_container", Act::Refuse(containerd_shim_protos::ttrpc::Code::ALREADY_EXISTS, "no"));
    bed.operate("pod").await.unwrap_err();
    assert!(!bed.guest.calls().contains(&"delete_container operator.e".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_slow_twice_is_not_waited_for_twice() {
    let bed = Bed::new();
    bed.start_open().await;
    bed.guest.on("start", Act::Silence);
    let (made, time) = took(bed.operate("pod")).await;
    made.unwrap_err();
    assert!(time < Duration::from_secs(60), "{time:?}");
}
