//! `krunctl inspect`: all that is known of one sandbox.

use anyhow::{Result, bail};
use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::{Value, json};

use super::{
    Seen,
    usage::{OfProcess, Usage},
};
use crate::{out, vm};

/// The flags of `inspect`.
#[derive(Args)]
pub struct Arguments {
    /// The sandbox: its id, or how that begins; or the name of its pod, as namespace/name
    #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    id: String,
    /// Its namespace of containerd, if its id is in several
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// Prints it, as JSON.
///
/// # Errors
/// When there is no such sandbox, or several.
pub fn run(arguments: &Arguments) -> Result<u8> {
    vm::check_root()?;
    let all = Seen::all()?;
    out::line(serde_json::to_string_pretty(&describe(find(
        &all,
        &arguments.id,
        arguments.namespace.as_deref(),
    )?))?)?;
    Ok(0)
}

/// The sandbox that is meant.
fn find<'a>(all: &'a [Seen], id: &str, namespace: Option<&str>) -> Result<&'a Seen> {
    let mut found: Vec<&Seen> = all
        .iter()
        .filter(|seen| namespace.is_none_or(|namespace| seen.status.namespace == namespace))
        .filter(|seen| seen.status.sandbox.starts_with(id) || is_pod(seen, id))
        .collect();
    if found.iter().any(|seen| seen.status.sandbox == id) {
        found.retain(|seen| seen.status.sandbox == id);
    }
    match &found[..] {
        [one] => Ok(one),
        [] => bail!("{id}: no such sandbox; `krunctl ps` lists those that there are"),
        _ => {
            let name = |seen: &&Seen| format!("{}/{}", seen.status.namespace, seen.status.sandbox);
            let names: Vec<_> = found.iter().map(name).collect();
            bail!("{id}: it could be {}; give more of it, or --namespace", names.join(", "))
        }
    }
}

fn is_pod(seen: &Seen, name: &str) -> bool {
    let pod = seen.status.pod.as_ref();
    pod.is_some_and(|pod| name.split_once('/') == Some((&pod.namespace, &pod.name)))
}

fn describe(seen: &Seen) -> Value {
    let status = &seen.status;
    let usage = Usage::of(status);
    let process = |used: &OfProcess| {
        json!({
            "resident_bytes": used.resident,
            "cpu_s": used.cpu.as_secs_f64(),
            "read_bytes": used.read,
            "written_bytes": used.written,
        })
    };
    let mut shown = seen.show(&usage);
    shown["directory"] = json!(seen.directory);
    shown["cgroup"] = json!(status.cgroup);
    shown["guest_kernel"] = json!(status.kernel);
    shown["boot_times"] = json!(status.boot);
    shown["pids"] = json!({
        "shim": status.shim.pid,
        "vmm": status.vmm.map(|vmm| vmm.pid),
        "anchor": status.anchor.map(|anchor| anchor.pid),
    });
    shown["usage"] = json!({
        "shim": usage.shim.as_ref().map(process),
        "vmm": usage.vmm.as_ref().map(process),
        "network": usage.network.map(|traffic| json!({
            "received_bytes": traffic.received_bytes,
            "received_packets": traffic.received_packets,
            "sent_bytes": traffic.sent_bytes,
            "sent_packets": traffic.sent_packets,
        })),
    });
    shown
}

#[cfg(test)]
mod tests {
    use shim::status::{PodName, Process};

    use super::{super::tests::seen, *};

    #[test]
    fn a_sandbox_is_found_by_its_id_how_that_begins_or_its_pod() {
        let here = Process::of(std::process::id()).unwrap();
        let named = |namespace: &str, sandbox: &str, pod: &str| {
            let mut one = seen(here, None, true);
            one.status.namespace = namespace.to_owned();
            one.status.sandbox = sandbox.to_owned();
            one.status.pod =
                Some(PodName { name: pod.to_owned(), namespace: "shop".to_owned(), uid: String::new() });
            one
        };
        let all = [named("k8s.io", "0123ab", "db"), named("moby", "0123ff", "x"), named("moby", "0123", "y")];
        let found = |id, namespace| find(&all, id, namespace).map(|seen| seen.status.sandbox.clone());
        assert_eq!(found("0123a", None).unwrap(), "0123ab");
        assert_eq!(found("0123", None).unwrap(), "0123");
        assert_eq!(found("shop/db", None).unwrap(), "0123ab");
        assert_eq!(found("01", Some("k8s.io")).unwrap(), "0123ab");
        let error = found("01", None).unwrap_err().to_string();
        assert!(error.contains("k8s.io/0123ab, moby/0123ff, moby/0123"), "{error}");
        assert!(found("db", None).unwrap_err().to_string().contains("no such sandbox"));
    }

    #[test]
    fn what_is_described_has_the_processes_and_what_they_use() {
        let here = Process::of(std::process::id()).unwrap();
        let shown = describe(&seen(here, Some(here), true));
        assert_eq!(shown["pids"]["vmm"], here.pid);
        assert!(shown["usage"]["vmm"]["resident_bytes"].as_u64() > Some(1 << 20));
        assert!(shown["usage"]["network"].is_null());
    }
}
