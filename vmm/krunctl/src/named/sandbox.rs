//! Sandboxes that containerd runs: where the shim of one answers calls.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::{Value, json};

use super::client::Vm;
use crate::{
    env,
    spec::{Process, limits, user::User},
};

/// Where containerd's state is. Source: containerd `defaults/defaults_unix.go`.
const STATE: &str = "/run/containerd";

/// The directory in it with the bundles of each namespace. Source: containerd's plugin `io.containerd.runtime.v2.task`.
const BUNDLES: &str = "io.containerd.runtime.v2.task";

/// The files of a bundle that have the shim's address: of containerd 2, and of those before. Source: containerd
/// `core/runtime/v2/shim.go`.
const BOOTSTRAP: &str = "bootstrap.json";
const ADDRESS: &str = "address";

/// The most bytes that such a file has.
const MAX_FILE: u64 = 4096;

/// How the name of our shim's program begins, unless somebody has given it another.
const PROGRAM: &str = "containerd-shim-krun";

/// The flags that name a sandbox.
#[derive(Args)]
#[group(skip)]
pub struct Arguments {
    /// Run the command in the VM of this pod or container of containerd's, outside of its containers: its id, or how that begins.
    /// The shim's configuration must have an `operator_root`
    #[arg(long, value_name = "ID", conflicts_with_all = ["name", "user"], value_parser = NonEmptyStringValueParser::new())]
    pub sandbox: Option<String>,
    /// Its namespace of containerd, if its id is in several
    #[arg(long, value_name = "NAMESPACE", requires = "sandbox")]
    namespace: Option<String>,
    /// containerd's state directory; that of k3s is /run/k3s/containerd
    #[arg(long, value_name = "DIR", requires = "sandbox", default_value = STATE)]
    state: PathBuf,
}

impl Arguments {
    /// Connects to the shim of the sandbox, on the current runtime.
    ///
    /// # Errors
    /// When there is none.
    pub async fn connect(&self) -> Result<Vm> {
        let id = self.sandbox.as_deref().unwrap_or_default();
        let (bundle, id) = find(&self.state.join(BUNDLES), self.namespace.as_deref(), id)?;
        let socket = address(&bundle)?;
        let gone = || format!("the shim of {id} does not answer at {}", socket.display());
        Vm::at(&socket, &id).await.with_context(gone)
    }
}

/// What may be wrong with a shim that refuses an operator's process: it may be none of ours.
pub async fn doubt(vm: &Vm) -> Option<String> {
    let (shim, _) = vm.pids().await.ok()?;
    let program = fs::read_link(format!("/proc/{shim}/exe")).ok()?;
    let is_ours = program.file_name()?.to_string_lossy().starts_with(PROGRAM);
    (!is_ours).then(|| format!("its runtime may not be krun: its shim is {}", program.display()))
}

/// A process of an operator, with all rights in the VM.
///
/// # Errors
/// As [`env::with`].
pub fn process(args: &[String], tty: bool, cwd: &str, variables: &[env::Variable]) -> Result<Value> {
    let root = User { uid: 0, gid: 0, groups: Vec::new(), home: Some("/".to_owned()) };
    let process = Process {
        args: args.to_vec(),
        env: env::with(&crate::container::defaults(&root, &[], tty), variables)?,
        cwd: cwd.to_owned(),
        user: root,
        capabilities: limits::capabilities(&["ALL".to_owned()], &[])?,
        rlimits: json!([]),
        terminal: None,
    };
    let mut process = process.json();
    // An operator has all rights that there are.
    process["noNewPrivileges"] = false.into();
    Ok(process)
}

/// The bundle of the container whose id begins with `id`, in `namespace` or in any, and its whole id.
fn find(bundles: &Path, namespace: Option<&str>, id: &str) -> Result<(PathBuf, String)> {
    let mut found = Vec::new();
    for space in names(bundles)
        .with_context(|| format!("looking for sandboxes of containerd in {}", bundles.display()))?
    {
        if namespace.is_some_and(|wanted| wanted != space) {
            continue;
        }
        // It may go meanwhile.
        for name in names(&bundles.join(&space)).unwrap_or_default() {
            if name.starts_with(id) {
                found.push((space.clone(), name));
            }
        }
    }
    if found.iter().any(|(_, name)| name == id) {
        found.retain(|(_, name)| name == id);
    }
    match &found[..] {
        [(space, name)] => Ok((bundles.join(space).join(name), name.clone())),
        [] => {
            let space = namespace.map(|name| format!("of the namespace {name} ")).unwrap_or_default();
            bail!("--sandbox {id}: no such sandbox {space}in {}", bundles.display())
        }
        _ => {
            let all: Vec<_> = found.iter().map(|(space, name)| format!("{space}/{name}")).collect();
            bail!("--sandbox {id}: it could be {}; give more of it, or --namespace", all.join(", "))
        }
    }
}

/// The names in a directory, sorted.
fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// The socket of a bundle's shim.
fn address(bundle: &Path) -> Result<PathBuf> {
    let address = match read(&bundle.join(BOOTSTRAP)) {
        Ok(text) => {
            let parameters: Value = serde_json::from_str(&text)
                .with_context(|| format!("reading {}", bundle.join(BOOTSTRAP).display()))?;
            parameters["address"].as_str().unwrap_or_default().to_owned()
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            read(&bundle.join(ADDRESS)).with_context(|| format!("{} names no shim", bundle.display()))?
        }
        Err(error) => {
            return Err(error).with_context(|| format!("reading {}", bundle.join(BOOTSTRAP).display()));
        }
    };
    let path = address.trim().strip_prefix("unix://");
    path.map(PathBuf::from)
        .with_context(|| format!("{}: {address:?} is no address of ours", bundle.display()))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_found_by_how_its_id_begins_if_that_is_one() {
        let top = tempfile::tempdir().unwrap();
        for name in ["default/web", "default/web2", "k8s.io/0123abcd", "moby/0123ffff"] {
            fs::create_dir_all(top.path().join(name)).unwrap();
        }
        let found = |namespace, id| find(top.path(), namespace, id).map(|(_, name)| name);
        assert_eq!(found(None, "web").unwrap(), "web");
        assert_eq!(found(None, "0123a").unwrap(), "0123abcd");
        assert_eq!(found(Some("moby"), "0123").unwrap(), "0123ffff");
        let error = found(None, "0123").unwrap_err().to_string();
        assert!(error.contains("k8s.io/0123abcd, moby/0123ffff"), "{error}");
        assert!(found(Some("moby"), "web").unwrap_err().to_string().contains("no such sandbox"));
    }

    #[test]
    fn the_address_is_read_from_what_any_containerd_writes() {
        let bundle = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(bundle.path().join(name), text).unwrap();
        assert!(address(bundle.path()).unwrap_err().to_string().contains("names no shim"));
        write(ADDRESS, "unix:///run/containerd/s/old\n");
        assert_eq!(address(bundle.path()).unwrap(), Path::new("/run/containerd/s/old"));
        write(BOOTSTRAP, r#"{"version":3,"address":"unix:///run/containerd/s/new","protocol":"ttrpc"}"#);
        assert_eq!(address(bundle.path()).unwrap(), Path::new("/run/containerd/s/new"));
        write(BOOTSTRAP, r#"{"address":"vsock://3:1"}"#);
        assert!(address(bundle.path()).unwrap_err().to_string().contains("vsock"));
    }
}
