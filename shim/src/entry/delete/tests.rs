use std::{fs, os::unix::net::UnixListener, sync::mpsc, thread};

use nix::{
    sched::{CloneFlags, unshare},
    sys::stat::Mode,
    unistd::mkfifo,
};
use serde_json::json;

use super::*;
use crate::record::Entry;

/// A host with one container's bundle on it, below a temporary directory.
struct Host {
    root: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        let host = Host { root: tempfile::tempdir().unwrap() };
        for dir in ["tasks/pod", "tasks/app", "state/share", "sockets"] {
            fs::create_dir_all(host.path(dir)).unwrap();
        }
        host
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// Writes the config.json of `app`, a container of `pod`, and says where its sandbox's server listens.
    fn member(&self, network: serde_json::Value) -> Flags {
        let spec = json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}},
            "annotations": {"io.kubernetes.cri.sandbox-id": "pod"},
            "linux": {"namespaces": [network]},
        });
        fs::write(self.path("tasks/app/config.json"), spec.to_string()).unwrap();
        Flags {
            id: "app".to_owned(),
            namespace: "default".to_owned(),
            // No containerd has this address, so the usual place of the socket is nobody's.
            address: self.path("containerd.sock").display().to_string(),
            ..Flags::default()
        }
    }

    /// Adds hooks after the end to `app`'s config.json, and records that hooks have begun.
    fn hook(&self, script: &str) {
        let file = self.path("tasks/app/config.json");
        let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        spec["hooks"] = json!({"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
        fs::write(file, spec.to_string()).unwrap();
        Record::of(&self.path("tasks/app")).write(&Entry::HooksBegan).unwrap();
    }

    fn remains(&self, flags: &Flags) -> Remains {
        let bundle = self.path("tasks/app");
        let directory = Pinned::open_directory(&bundle).unwrap();
        Remains::of(flags, bundle, directory).unwrap()
    }

    fn clean(&self, flags: &Flags) {
        let mut remains = self.remains(flags);
        remains.state = self.path("state");
        remains.clean(Instant::now() + LIMIT);
    }
}

#[test]
fn a_live_server_keeps_its_sandbox_wherever_it_listens() {
    for noted_in in ["tasks/app", "tasks/pod"] {
        let host = Host::new();
        let flags = host.member(json!({"type": "network"}));
        let socket = host.path("sockets/s");
        let server = UnixListener::bind(&socket).unwrap();
        address::write(&host.path(noted_in), &format!("unix://{}", socket.display())).unwrap();
        host.clean(&flags);
        assert!(host.path("state/share").is_dir() && socket.exists(), "noted in {noted_in}");

        drop(server);
        // A child that another test has just forked has a copy until it executes its program.
        while address::is_served(&format!("unix://{}", socket.display())) {
            thread::yield_now();
        }
        host.clean(&flags);
        assert!(!host.path("state").exists() && !socket.exists(), "noted in {noted_in}");
    }
}

#[test]
fn hooks_that_a_dead_shim_has_not_run_run_once() {
    let host = Host::new();
    let flags = host.member(json!({"type": "network"}));
    let told = host.path("told");
    host.hook(&format!("cat >>{}", told.display()));
    host.clean(&flags);
    host.clean(&flags);
    let told: serde_json::Value = serde_json::from_slice(&fs::read(&told).unwrap()).unwrap();
    assert_eq!((&told["id"], &told["status"]), (&json!("app"), &json!("stopped")));
}

#[test]
fn a_new_container_with_the_same_id_keeps_what_is_its_own() {
    let host = Host::new();
    let flags = host.member(json!({"type": "network"}));
    let (bundle, hidden, said) = (host.path("tasks/app"), host.path("tasks/.app"), host.path("said"));
    // This thread alone is in the bundle, as `delete` is.
    let cleaned = thread::spawn(move || {
        unshare(CloneFlags::CLONE_FS).unwrap();
        env::set_current_dir(&bundle).unwrap();
        fs::rename(&bundle, &hidden).unwrap();
        fs::create_dir(&bundle).unwrap();
        host.member(json!({"type": "network"}));
        host.hook(&format!("touch {}", said.display()));
        host.clean(&flags);
        fs::remove_dir_all(&hidden).unwrap();
        host.clean(&flags);
        assert!(!said.exists(), "its hooks after the end ran");
        env::set_current_dir(&bundle).unwrap();
        host.clean(&flags);
        assert!(said.exists());
    });
    cleaned.join().unwrap();
}

#[test]
fn hooks_that_never_began_do_not_run() {
    let host = Host::new();
    let flags = host.member(json!({"type": "network"}));
    let told = host.path("told");
    host.hook(&format!("touch {}", told.display()));
    Record::of(&host.path("tasks/app")).write(&Entry::HooksEnded).unwrap();
    host.clean(&flags);
    assert!(!told.exists());
}

#[test]
fn a_hook_that_hangs_leaves_time_for_the_rest() {
    let host = Host::new();
    let flags = host.member(json!({"type": "network"}));
    host.hook("sleep 100 & sleep 100");
    let began = Instant::now();
    host.clean(&flags);
    assert!(!host.path("state").exists());
    // That is when containerd kills it.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_record_that_is_not_ours_undoes_nothing_and_holds_up_nothing() {
    let host = Host::new();
    let flags = host.member(json!({"type": "network"}));
    let victim = host.path("victim");
    fs::create_dir(&victim).unwrap();
    let entry = json!({"making_cgroup": {"path": victim, "unit": null}});
    fs::write(host.path("tasks/app/krun.record"), format!("{entry}\nnonsense\n")).unwrap();
    host.clean(&flags);
    assert!(victim.exists() && !host.path("state").exists());
    // One that reads well, and names what is no cgroup.
    fs::write(host.path("tasks/app/krun.record"), format!("{entry}\n")).unwrap();
    host.clean(&flags);
    assert!(victim.exists());
}

#[test]
fn a_sandbox_without_a_noted_address_is_looked_for_in_the_usual_place() {
    let host = Host::new();
    let flags = host.member(json!({"type": "network"}));
    let usual = address::compute(&flags.address, "default", "pod", None).unwrap();
    assert_eq!(host.remains(&flags).addresses, [usual]);
    host.clean(&flags);
    assert!(!host.path("state").exists());
}

#[test]
fn a_bundle_without_a_config_is_its_own_sandbox() {
    let host = Host::new();
    let flags = host.member(json!({"type": "network"}));
    fs::write(host.path("tasks/app/config.json"), "{").unwrap();
    assert_eq!(host.remains(&flags).sandbox, "app");
    host.clean(&flags);
    assert!(!host.path("state").exists());
}

#[test]
fn a_fifo_for_a_network_namespace_holds_up_nothing() {
    let host = Host::new();
    let fifo = host.path("netns");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let flags = host.member(json!({"type": "network", "path": fifo}));
    let (done, cleaned) = mpsc::channel();
    thread::spawn(move || {
        host.clean(&flags);
        done.send(host.path("state").exists())
    });
    assert!(!cleaned.recv_timeout(Duration::from_secs(10)).expect("delete hangs"));
}
