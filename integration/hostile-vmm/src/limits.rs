//! Takes as much of the host as it can get, and keeps it.

use std::{
    convert::Infallible,
    fs, hint,
    sync::{Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Result;
use nix::errno::Errno;
use syscalls::Sysno;
use vmm::become_vm::Prepared;

use crate::{attempt::call, report};

/// The first real-time signal that the C library leaves to programs. Unlike others, each is kept.
const SIGNAL: usize = 40;

/// Memory is taken in steps of this size.
const STEP: usize = 8 << 20;

/// Counts how often `next` works, up to `most` times; with the error that ended it, if one did.
pub fn until_error(most: usize, mut next: impl FnMut() -> Result<(), Errno>) -> (usize, Option<Errno>) {
    for count in 0..most {
        if let Err(errno) = next() {
            return (count, Some(errno));
        }
    }
    (most, None)
}

/// Sends itself signals that it blocks, until there can be no more.
pub fn signals() -> (usize, Option<Errno>) {
    let set = 1_u64 << (SIGNAL - 1);
    let blocked = call(
        Sysno::rt_sigprocmask,
        &[libc::SIG_BLOCK as usize, &raw const set as usize, 0, size_of_val(&set)],
    );
    let own = call(Sysno::getpid, &[]).unwrap_or(0);
    until_error(10_000_000, || {
        blocked?;
        call(Sysno::tgkill, &[own, own, SIGNAL]).map(drop)
    })
}

/// Takes what the kernel counts for a user: pending signals, and watches of epoll. Then it holds them.
pub fn hold(prepared: &Prepared) -> Result<Infallible> {
    prepared.enter_jail()?;
    let (signals, signals_error) = signals();
    let (watches, watches_error) = watches();
    report(&format!("holds {signals} signals {signals_error:?}, {watches} watches {watches_error:?}"));
    loop {
        thread::park();
    }
}

/// Watches of epoll: each descriptor in each epoll.
fn watches() -> (usize, Option<Errno>) {
    const FILES: usize = 2000;
    let mut files = Vec::new();
    while files.len() < FILES {
        match call(Sysno::eventfd2, &[0, 0]) {
            Ok(file) => files.push(file),
            Err(_) => break,
        }
    }
    let event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    let mut count = 0;
    loop {
        let epoll = match call(Sysno::epoll_create1, &[0]) {
            Ok(epoll) => epoll,
            Err(errno) => return (count, Some(errno)),
        };
        for file in &files {
            let add = [epoll, libc::EPOLL_CTL_ADD as usize, *file, &raw const event as usize];
            match call(Sysno::epoll_ctl, &add) {
                Ok(_) => count += 1,
                Err(errno) => return (count, Some(errno)),
            }
        }
    }
}

/// Takes memory until the kernel kills it.
pub fn eat(prepared: &Prepared) -> Result<Infallible> {
    prepared.enter_jail()?;
    report("eats");
    loop {
        let mut memory = vec![1_u8; STEP];
        // The compiler must not find out that nobody reads it.
        hint::black_box(&mut memory);
        std::mem::forget(memory);
    }
}

/// Whether the threads may spin.
static SPIN: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// Becomes a VM; when its container has made a file of the name `go`, starts threads until there can be no more, and has all
/// of them spin.
pub fn spin(prepared: Prepared, container: &str) -> Result<Infallible> {
    prepared.enter_jail()?;
    let go = format!("/share/containers/{container}/rootfs/go");
    thread::Builder::new().stack_size(64 << 10).spawn(move || {
        while fs::metadata(&go).is_err() {
            thread::sleep(Duration::from_millis(100));
        }
        let (count, errno) = threads(|| {
            let begun = SPIN.0.lock().unwrap_or_else(PoisonError::into_inner);
            drop(SPIN.1.wait_while(begun, |begun| !*begun));
            loop {
                hint::spin_loop();
            }
        });
        report(&format!("spins in {count} threads {errno:?}"));
        *SPIN.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        SPIN.1.notify_all();
    })?;
    prepared.run()
}

/// Starts threads that do this, until there can be no more.
pub fn threads(work: fn()) -> (usize, Option<Errno>) {
    until_error(100_000, || {
        let started = thread::Builder::new().stack_size(16 << 10).spawn(work);
        started.map(drop).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    })
}
