//! What is written down of a sandbox's VM, and when: once it is wanted, launched, and up.

use std::{
    path::PathBuf,
    sync::Mutex,
    time::{Duration, Instant},
};

use log::warn;

use crate::{
    files::status::{self, BootTimes, Process, Status},
    lock::lock,
    report::{self, Report},
    sandbox::host::Booted,
};

/// How many characters of what a guest says of its kernel are kept. Source: a release has 64 (uname(2)).
const MAX_KERNEL: usize = 64;

/// What is known of a VM, in its sandbox's directory as well.
pub struct Noted {
    /// The sandbox's directory.
    directory: PathBuf,
    /// What is known, and how long it took until the VM had a process.
    known: Mutex<(Status, Duration)>,
}

impl Noted {
    /// A VM that is wanted, which has been prepared since `began`.
    pub fn new(directory: PathBuf, status: Status, began: Instant) -> Noted {
        let noted = Noted { directory, known: Mutex::new((status, began.elapsed())) };
        noted.note(|_, _| {});
        noted
    }

    /// It has a process now, with this pid, and its launch began then.
    pub fn launched(&self, vmm: Option<u32>, began: Instant) {
        self.note(|status, until_process| {
            *until_process += began.elapsed();
            status.vmm = vmm.and_then(Process::of);
        });
    }

    /// Its guest is up, which is reported as well.
    pub fn booted(&self, booted: &Booted) {
        let mut times = BootTimes::default();
        let mut warm = false;
        self.note(|status, until_process| {
            times = BootTimes {
                launch_us: micros(*until_process),
                guest_us: micros(booted.called),
                configure_us: micros(booted.configured),
            };
            warm = status.warm;
            status.kernel = Some(booted.kernel.chars().take(MAX_KERNEL).collect());
            status.boot = Some(times);
        });
        report::send(Report::Booted { warm, times });
    }

    fn note(&self, change: impl FnOnce(&mut Status, &mut Duration)) {
        let mut known = lock(&self.known);
        let (status, until_process) = &mut *known;
        change(status, until_process);
        if let Err(error) = status::write(&self.directory, status) {
            warn!("write down what is known of the VM: {error}");
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
