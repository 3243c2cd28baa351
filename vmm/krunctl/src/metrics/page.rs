//! The page that a scrape gets: what has been counted, and what sandboxes use now.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use prometheus::{CounterVec, GaugeVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector};
use shim::pool;

use super::counted::Counted;
use crate::observe::{
    Seen, State,
    usage::{OfProcess, Usage},
};

/// For how long a page holds: whoever asks more often gets the same again.
const HOLDS: Duration = Duration::from_secs(1);

/// What tells a sandbox's series from another's. `namespace` and `pod` would be those of the target, where Kubernetes names it.
const LABELS: [&str; 4] = ["containerd_namespace", "sandbox", "pod_namespace", "pod_name"];
const WITH_PROCESS: [&str; 5] = ["containerd_namespace", "sandbox", "pod_namespace", "pod_name", "process"];
const OF_VM: [&str; 6] = ["containerd_namespace", "sandbox", "pod_namespace", "pod_name", "network", "boot"];

/// Makes pages. Clones make the same.
#[derive(Clone)]
pub struct Page {
    counted: Counted,
    max_sandboxes: usize,
    last: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Page {
    /// With series of so many sandboxes.
    pub fn new(counted: Counted, max_sandboxes: usize) -> Page {
        Page { counted, max_sandboxes, last: Arc::default() }
    }

    /// The page, in Prometheus's text format.
    ///
    /// # Errors
    /// When sandboxes cannot be looked for.
    pub fn text(&self) -> Result<String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, text)) = &*last
            && made.elapsed() < HOLDS
        {
            return Ok(text.clone());
        }
        let waiting = pool::waiting()?;
        let text = self.make(Seen::all()?, waiting)?;
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
    }

    fn make(&self, mut all: Vec<Seen>, waiting: usize) -> Result<String> {
        let registry = Registry::new();
        let host = Host::new(&registry)?;
        host.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        for state in [State::Booting, State::Running, State::Ended, State::Lost] {
            host.sandboxes.with_label_values(&[state.name()]);
        }
        let mut states = HashMap::<_, i64>::new();
        all.iter().for_each(|seen| *states.entry(seen.state().name()).or_default() += 1);
        states.iter().for_each(|(state, count)| host.sandboxes.with_label_values(&[*state]).set(*count));
        // The oldest keep their series.
        all.sort_by_key(|seen| seen.status.created_ms);
        let left_out = all.len().saturating_sub(self.max_sandboxes);
        host.left_out.set(i64::try_from(left_out).unwrap_or(i64::MAX));
        let each = Each::new(&registry)?;
        all.iter().take(self.max_sandboxes).for_each(|seen| each.add(seen));
        let mut families = self.counted.gather();
        families.extend(registry.gather());
        Ok(TextEncoder::new().encode_to_string(&families)?)
    }
}

/// What there is of the host.
struct Host {
    sandboxes: IntGaugeVec,
    left_out: IntGauge,
    waiting: IntGauge,
}

impl Host {
    fn new(registry: &Registry) -> Result<Host> {
        Ok(Host {
            sandboxes: register(
                registry,
                IntGaugeVec::new(
                    Opts::new("krun_sandboxes", "Sandboxes of this host, by state"),
                    &["state"],
                )?,
            )?,
            left_out: register(
                registry,
                IntGauge::new("krun_sandboxes_left_out", "Sandboxes without series of their own")?,
            )?,
            waiting: register(
                registry,
                IntGauge::new("krun_pool_waiting_vms", "VMs that wait in the pool, booted or booting")?,
            )?,
        })
    }
}

/// What there is of each sandbox.
struct Each {
    info: IntGaugeVec,
    cpus: IntGaugeVec,
    memory: IntGaugeVec,
    started: GaugeVec,
    resident: IntGaugeVec,
    cpu: CounterVec,
    disk_read: CounterVec,
    disk_written: CounterVec,
    received_bytes: CounterVec,
    received_packets: CounterVec,
    sent_bytes: CounterVec,
    sent_packets: CounterVec,
}

impl Each {
    fn new(registry: &Registry) -> Result<Each> {
        let integer = |name, help, labels: &[&str]| {
            register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let counter =
            |name, help, labels: &[&str]| register(registry, CounterVec::new(Opts::new(name, help), labels)?);
        Ok(Each {
            info: integer(
                "krun_sandbox_info",
                "A sandbox, with the kind of its network and of its boot",
                &OF_VM,
            )?,
            cpus: integer("krun_sandbox_cpus", "CPUs of the sandbox's VM", &LABELS)?,
            memory: integer("krun_sandbox_memory_bytes", "Memory that the sandbox's VM has", &LABELS)?,
            started: register(
                registry,
                GaugeVec::new(
                    Opts::new("krun_sandbox_start_time_seconds", "When the VM was wanted, since 1970"),
                    &LABELS,
                )?,
            )?,
            resident: integer(
                "krun_sandbox_resident_memory_bytes",
                "Memory of the host that the VM (vmm) or its shim holds",
                &WITH_PROCESS,
            )?,
            cpu: counter("krun_sandbox_cpu_seconds_total", "CPU time of the VM or its shim", &WITH_PROCESS)?,
            disk_read: counter(
                "krun_sandbox_disk_read_bytes_total",
                "Bytes that disks read for the VM or its shim",
                &WITH_PROCESS,
            )?,
            disk_written: counter(
                "krun_sandbox_disk_written_bytes_total",
                "Bytes that disks wrote for the VM or its shim",
                &WITH_PROCESS,
            )?,
            received_bytes: counter(
                "krun_sandbox_network_receive_bytes_total",
                "Bytes that the guest's NICs received",
                &LABELS,
            )?,
            received_packets: counter(
                "krun_sandbox_network_receive_packets_total",
                "Packets that the guest's NICs received",
                &LABELS,
            )?,
            sent_bytes: counter(
                "krun_sandbox_network_transmit_bytes_total",
                "Bytes that the guest's NICs sent",
                &LABELS,
            )?,
            sent_packets: counter(
                "krun_sandbox_network_transmit_packets_total",
                "Packets that the guest's NICs sent",
                &LABELS,
            )?,
        })
    }

    fn add(&self, seen: &Seen) {
        let status = &seen.status;
        let pod = status.pod.as_ref();
        let labels = [
            status.namespace.as_str(),
            status.sandbox.as_str(),
            pod.map_or("", |pod| &pod.namespace),
            pod.map_or("", |pod| &pod.name),
        ];
        let and = |more: &'static str| [labels[0], labels[1], labels[2], labels[3], more];
        let boot = if status.warm { "warm" } else { "cold" };
        let [namespace, sandbox, pod_namespace, pod] = labels;
        self.info.with_label_values(&[namespace, sandbox, pod_namespace, pod, &status.network, boot]).set(1);
        self.cpus.with_label_values(&labels).set(status.cpus.into());
        self.memory.with_label_values(&labels).set(i64::from(status.memory_mib) << 20);
        self.started.with_label_values(&labels).set(status.created_ms as f64 / 1e3);
        let usage = Usage::of(status);
        for (process, used) in [("vmm", usage.vmm), ("shim", usage.shim)] {
            let Some(OfProcess { resident, cpu, read, written }) = used else { continue };
            self.resident.with_label_values(&and(process)).set(i64::try_from(resident).unwrap_or(i64::MAX));
            self.cpu.with_label_values(&and(process)).inc_by(cpu.as_secs_f64());
            self.disk_read.with_label_values(&and(process)).inc_by(read as f64);
            self.disk_written.with_label_values(&and(process)).inc_by(written as f64);
        }
        if let Some(traffic) = usage.network {
            self.received_bytes.with_label_values(&labels).inc_by(traffic.received_bytes as f64);
            self.received_packets.with_label_values(&labels).inc_by(traffic.received_packets as f64);
            self.sent_bytes.with_label_values(&labels).inc_by(traffic.sent_bytes as f64);
            self.sent_packets.with_label_values(&labels).inc_by(traffic.sent_packets as f64);
        }
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use shim::status::{PodName, Process};

    use super::*;
    use crate::observe::tests::seen;

    fn page(max_sandboxes: usize) -> Page {
        Page::new(Counted::new().unwrap(), max_sandboxes)
    }

    #[test]
    fn a_sandbox_has_series_with_its_names() {
        let here = Process::of(std::process::id()).unwrap();
        let mut one = seen(here, Some(here), true);
        one.status.pod =
            Some(PodName { name: "a\"b\n".to_owned(), namespace: "shop".to_owned(), uid: String::new() });
        let text = page(9).make(vec![one], 2).unwrap();
        let labels = r#"containerd_namespace="default",pod_name="a\"b\n",pod_namespace="shop""#;
        for line in [
            format!("krun_sandbox_memory_bytes{{{labels},sandbox=\"web\"}} 536870912"),
            format!("krun_sandbox_resident_memory_bytes{{{labels},process=\"vmm\",sandbox=\"web\"}} "),
            "krun_sandboxes{state=\"running\"} 1".to_owned(),
            "krun_sandboxes{state=\"lost\"} 0".to_owned(),
            "krun_pool_waiting_vms 2".to_owned(),
        ] {
            assert!(text.contains(&line), "no {line} in {text}");
        }
    }

    #[test]
    fn the_dashboard_asks_for_nothing_that_is_not_there() {
        let here = Process::of(std::process::id()).unwrap();
        let mut one = seen(here, Some(here), true);
        one.status.anchor = None;
        let text = page(9).make(vec![one], 0).unwrap();
        let dashboard = include_str!("../../../../deploy/grafana/krun.json");
        let name = |part: &str| {
            let end = part.find(|c: char| !(c.is_ascii_lowercase() || c == '_')).unwrap_or(part.len());
            format!("krun_{}", &part[..end])
        };
        let asked: Vec<_> = dashboard.split("krun_").skip(1).map(name).collect();
        assert!(asked.len() > 10);
        // This sandbox has no network.
        for series in asked.iter().filter(|series| !series.contains("_network_")) {
            assert!(
                text.contains(&format!("\n{series}{{")) || text.contains(&format!("\n{series} ")),
                "{series}"
            );
        }
        assert_eq!(asked.iter().filter(|series| series.contains("_network_")).count(), 2);
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let here = Process::of(std::process::id()).unwrap();
        let all = (0..5).map(|number| {
            let mut one = seen(here, None, true);
            one.status.sandbox = format!("s{number}");
            one.status.created_ms -= number;
            one
        });
        let text = page(2).make(all.collect(), 0).unwrap();
        assert!(text.contains("krun_sandboxes_left_out 3"), "{text}");
        assert_eq!(text.matches("krun_sandbox_cpus{").count(), 2);
        assert!(text.contains("sandbox=\"s4\"") && text.contains("sandbox=\"s3\""), "{text}");
    }
}
