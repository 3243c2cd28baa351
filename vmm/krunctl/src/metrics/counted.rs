//! What has been reported since this process began.

use anyhow::Result;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, proto::MetricFamily,
};
use shim::report::{Failure, Reason, Report};

/// The limits of the histogram's buckets, in seconds: from a part of a boot on a fast host to one that hangs.
const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// All reasons, so that each has a series from the start.
const FAILURES: [(Failure, &str); 6] = [
    (Failure::Boot, "boot"),
    (Failure::Unresponsive, "unresponsive"),
    (Failure::Protocol, "protocol"),
    (Failure::Connection, "connection"),
    (Failure::Died, "died"),
    (Failure::Memory, "memory"),
];
const REASONS: [(Reason, &str); 5] = [
    (Reason::Success, "success"),
    (Reason::Error, "error"),
    (Reason::Signal, "signal"),
    (Reason::OutOfMemory, "out_of_memory"),
    (Reason::NotMade, "not_made"),
];

/// The counters. Clones count together.
#[derive(Clone)]
pub struct Counted {
    registry: Registry,
    boots: HistogramVec,
    failures: IntCounterVec,
    exits: IntCounterVec,
    ooms: IntCounter,
}

impl Counted {
    /// Nothing yet.
    ///
    /// # Errors
    /// When a name is wrong.
    pub fn new() -> Result<Counted> {
        let boots = HistogramOpts::new(
            "krun_boot_duration_seconds",
            "How long the boots of VMs took, by part; of a warm VM, what was left to be done",
        );
        let counted = Counted {
            registry: Registry::new(),
            boots: HistogramVec::new(boots.buckets(BUCKETS.to_vec()), &["boot", "phase"])?,
            failures: counter("krun_vm_failures_total", "VMs that were of no more use, by reason", "reason")?,
            exits: counter("krun_container_exits_total", "Containers that ended, by reason", "reason")?,
            ooms: IntCounter::new("krun_oom_events_total", "How often containerd was told of an OOM kill")?,
        };
        counted.registry.register(Box::new(counted.boots.clone()))?;
        counted.registry.register(Box::new(counted.failures.clone()))?;
        counted.registry.register(Box::new(counted.exits.clone()))?;
        counted.registry.register(Box::new(counted.ooms.clone()))?;
        for (_, name) in FAILURES {
            counted.failures.with_label_values(&[name]);
        }
        for (_, name) in REASONS {
            counted.exits.with_label_values(&[name]);
        }
        for boot in ["cold", "warm"] {
            for phase in ["launch", "guest", "configure", "total"] {
                counted.boots.with_label_values(&[boot, phase]);
            }
        }
        Ok(counted)
    }

    /// Counts a report.
    pub fn count(&self, report: &Report) {
        match report {
            Report::Booted { warm, times } => {
                let boot = if *warm { "warm" } else { "cold" };
                let phase = |name| -> Histogram { self.boots.with_label_values(&[boot, name]) };
                phase("launch").observe(seconds(times.launch_us));
                phase("guest").observe(seconds(times.guest_us));
                phase("configure").observe(seconds(times.configure_us));
                phase("total").observe(seconds(times.launch_us + times.guest_us + times.configure_us));
            }
            Report::Failed(why) => add(&self.failures, &FAILURES, why),
            Report::Exited(reason) => add(&self.exits, &REASONS, reason),
            Report::Oom => self.ooms.inc(),
        }
    }

    /// All of it.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

fn counter(name: &str, help: &str, label: &str) -> Result<IntCounterVec> {
    Ok(IntCounterVec::new(Opts::new(name, help), &[label])?)
}

fn add<T: PartialEq>(counter: &IntCounterVec, names: &[(T, &str)], one: &T) {
    if let Some((_, name)) = names.iter().find(|(known, _)| known == one) {
        counter.with_label_values(&[*name]).inc();
    }
}

fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;
    use shim::status::BootTimes;

    use super::*;

    #[test]
    fn each_report_is_counted_where_it_belongs() {
        let counted = Counted::new().unwrap();
        let times = BootTimes { launch_us: 26_000, guest_us: 240_000, configure_us: 900 };
        for report in [
            Report::Booted { warm: false, times },
            Report::Failed(Failure::Protocol),
            Report::Exited(Reason::Signal),
            Report::Exited(Reason::Signal),
            Report::Oom,
        ] {
            counted.count(&report);
        }
        let text = TextEncoder::new().encode_to_string(&counted.gather()).unwrap();
        for line in [
            "krun_boot_duration_seconds_bucket{boot=\"cold\",phase=\"guest\",le=\"0.1\"} 0",
            "krun_boot_duration_seconds_bucket{boot=\"cold\",phase=\"guest\",le=\"0.25\"} 1",
            "krun_boot_duration_seconds_count{boot=\"warm\",phase=\"guest\"} 0",
            "krun_vm_failures_total{reason=\"protocol\"} 1",
            "krun_vm_failures_total{reason=\"died\"} 0",
            "krun_container_exits_total{reason=\"signal\"} 2",
            "krun_oom_events_total 1",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
    }
}
