//! What is fed from outside, as functions of bytes for `fuzz/`: each runs what the shim would, and panics when a promise
//! does not hold. It must never do anything to the host.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use containerd_shim_protos::{
    cgroups_v2::metrics::Metrics,
    protobuf::{Message, well_known_types::any::Any},
    ttrpc,
};
use guest_protocol::api::{ExitRecord, StatsResponse};
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use crate::{
    bundle::{self, HostPolicy, Volume},
    cgroup::CgroupName,
    config::{Config, Origin, RuntimeOptions, annotations, annotations::Author, host_memory_mib},
    error::{Error, Result},
    files::pin::{Pinned, Source},
    hooks::ContainerHooks,
    sandbox::Exit,
    service::metrics,
    stdio::uri::Target,
};

/// The container that a fuzzed bundle is for.
const ID: &str = "c1";

/// Whether a VM can be as large as `config` says.
fn check_size(config: &Config) {
    assert!((1..=16).contains(&config.cpus), "{config:?}");
    assert!((1..=host_memory_mib()).contains(&config.memory_mib), "{config:?}");
}

/// A configuration file, and runtime options that hold one.
pub fn config_toml(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut config = Config::default();
    if config.apply(&text, "fuzz.toml").is_ok() {
        config.size_for(Default::default());
        check_size(&config);
    }
    let any =
        Any { type_url: "runtimeoptions.v1.Options".to_owned(), value: data.to_owned(), ..Any::default() };
    if let Ok(RuntimeOptions { config_body: Some(body), .. }) = RuntimeOptions::decode(Some(&any)) {
        let _ = Config::default().apply(&body, "fuzz.toml");
    }
}

/// Annotations, a line each: its name, `=`, its value.
pub fn config_annotations(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let all: BTreeMap<String, String> =
        text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let mut config = Config::default();
    if annotations::apply(&mut config, &all, Author::Host).is_ok() {
        config.size_for(Default::default());
        check_size(&config);
        let mut hosts: Vec<_> = config.ports.iter().map(|p| (p.host, p.protocol as u8)).collect();
        let ports = hosts.len();
        hosts.sort_unstable();
        hosts.dedup();
        assert!(hosts.len() == ports && config.ports.iter().all(|p| p.host != 0 && p.task != 0));
    }
    let closed = Config { enable_annotations: Some(Vec::new()), ..Config::default() };
    let mut config = closed.clone();
    let _ = annotations::apply(&mut config, &all, Author::Host);
    assert_eq!(config, closed, "annotations that nobody allowed changed something");
    let plain = Config::default().of_container(&BTreeMap::new(), Origin::Pod, Default::default());
    let plain = plain.expect("no annotation is wrong");
    if let Ok(pod) = Config::default().of_container(&all, Origin::Pod, Default::default()) {
        assert!(pod.kernel.is_none() && !pod.nested_virt, "{pod:?}");
        assert!(
            pod.ports.is_empty() && pod.cpus <= plain.cpus && pod.memory_mib <= plain.memory_mib,
            "{pod:?}"
        );
    }
}

/// containerd's name for an output.
pub fn stdio_uri(data: &[u8]) {
    let uri = String::from_utf8_lossy(data);
    match Target::parse(&uri) {
        Ok(Target::Binary(binary)) => assert!(binary.path.is_absolute() && binary.args.len() % 2 == 0),
        Ok(Target::Fifo(path)) if !uri.contains("://") => assert_eq!(path, Path::new(&*uri)),
        Ok(target) => drop(target.path().to_owned()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A container's config.json: all that is read of it before anything is made.
pub fn bundle(data: &[u8]) {
    let Ok(spec) = bundle::parse(data) else { return };
    let annotations = spec.annotations().iter().flatten();
    let config =
        Config::default().of_container(annotations, bundle::origin(&spec, ID), bundle::limits(&spec));
    let Ok(config) = config else { return };
    check_size(&config);
    bundle::network_namespace(&spec);
    let _ = ContainerHooks::new(&spec, ID, Path::new("/bundle"));
    let Ok(policy) = HostPolicy::of(&spec, ID, config.memory_mib) else { return };
    assert!(policy.hosts.devices().is_none());
    if let Some(path) = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref())
        && let Ok(named) = CgroupName::parse(path)
    {
        let path = named.path();
        assert!(path.components().all(|part| part != std::path::Component::ParentDir), "{}", path.display());
    }
    let containers = [(7, "other".to_owned())].into();
    let host = bundle::Host {
        name: "host".to_owned(),
        resolve,
        containers,
        rlimits: Vec::new(),
        oom_score_adj: None,
        kvm: false,
    };
    if let Ok(guest) = bundle::to_guest(spec, ID, &host) {
        check_guests(&guest.spec, &guest.volumes);
    }
}

/// Nothing in a guest's spec may name a thing of the host.
fn check_guests(spec: &Spec, volumes: &[Volume]) {
    let text = serde_json::to_vec(spec).expect("a spec is JSON");
    let spec: Spec = serde_json::from_slice(&text).expect("what was a spec is one in the guest");
    assert_eq!(spec.root().as_ref().map(|root| root.path().clone()), Some("/containers/c1/rootfs".into()));
    assert!(spec.hooks().is_none(), "hooks");
    let linux = spec.linux().as_ref().expect("it had linux");
    assert_eq!(linux.cgroups_path(), &Some(PathBuf::from("/krun/c1")));
    for namespace in linux.namespaces().iter().flatten() {
        assert!(!matches!(namespace.typ(), LinuxNamespaceType::Network | LinuxNamespaceType::User));
        assert!(namespace.path().as_ref().is_none_or(|path| path.starts_with("/containers")));
    }
    for mount in spec.mounts().iter().flatten().filter(|mount| is_bind(mount)) {
        let Some(source) = mount.source() else { continue };
        let known = volumes
            .iter()
            .enumerate()
            .any(|(number, volume)| source.starts_with(volume.path_in_guest(ID, number)));
        assert!(known || source == Path::new("/dev/shm"), "a bind of {}", source.display());
    }
}

fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind")
}

/// Stands in for the host's files: what a path leads to is in its last letter.
fn resolve(path: &Path) -> Result<Source> {
    let pinned = |path| Pinned::open(Path::new(path)).map_err(|e| Error::internal(e.to_string()));
    match path.as_os_str().as_encoded_bytes().last() {
        Some(b'd') => Ok(Source::Directory { file: pinned("/")?, mounts: vec!["a/disk".into(), "b".into()] }),
        Some(b'k') => socket(),
        Some(b'x') => Err(Error::invalid("no such file")),
        _ => Ok(Source::File(pinned("/")?)),
    }
}

/// A socket that is there while it is looked up for the first time.
#[expect(clippy::disallowed_methods, reason = "a file of the fuzz target's own")]
fn socket() -> Result<Source> {
    static SOCKET: OnceLock<Source> = OnceLock::new();
    if let Some(socket) = SOCKET.get() {
        return Ok(socket.clone());
    }
    let path = std::env::temp_dir().join(format!("krun-fuzz-{}", std::process::id()));
    let server = UnixListener::bind(&path).map_err(|e| Error::internal(e.to_string()))?;
    let found = Source::resolve(&path);
    let _ = std::fs::remove_file(&path);
    drop(server);
    Ok(SOCKET.get_or_init(|| found.expect("a socket that was just made")).clone())
}

/// A guest's answer, by its first byte: the end of a process, its numbers, or why a call failed.
pub fn guest_answer(data: &[u8]) {
    let Some((kind, answer)) = data.split_first() else { return };
    match kind % 3 {
        0 => {
            if let Ok(record) = ExitRecord::parse_from_bytes(answer) {
                assert!(Exit::from(&record).status <= 255);
            }
        }
        1 => {
            if let Ok(numbers) = StatsResponse::parse_from_bytes(answer) {
                let metrics = metrics::encode(&numbers).expect("any numbers can be encoded");
                let metrics = Metrics::parse_from_bytes(&metrics).expect("what was encoded can be decoded");
                assert_eq!(metrics.memory.usage, numbers.memory_usage);
                assert_eq!(metrics.io.usage.len(), numbers.io.len());
            }
        }
        _ => {
            if let Ok(status) = ttrpc::proto::Status::parse_from_bytes(answer) {
                let error = Error::from(ttrpc::Error::RpcStatus(status));
                assert!([126, 127, 255].contains(&error.exit_status()));
                let code = error.code();
                let repeated = error.clone().context("create c1");
                assert!(
                    matches!(ttrpc::Error::from(repeated), ttrpc::Error::RpcStatus(s) if s.code() == code)
                );
            }
        }
    }
}
