//! Makes the tries: each in a process of its own, because the filter kills the process that makes a call beyond it.
//!
//! The launched vmm closes the jail around itself but for the filter, which would let it have no children. Each child is a
//! copy of it, with the same rights and descriptors, and installs the filter.

use std::{
    convert::Infallible,
    ffi::CStr,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    ptr::{self, NonNull},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use syscalls::Sysno;
use vmm::become_vm::Prepared;

use crate::{
    report,
    tries::{ALL, Outcome, Try},
};

/// How long one try may take, in an emulated box.
const PATIENCE: Duration = Duration::from_secs(25);

/// How long the shim may take to show the container's volume to the vmm.
const VOLUME_PATIENCE: Duration = Duration::from_secs(20);

/// Size of the page that a try leaves its outcome on, and where the name of its last call stands there.
const PAGE: usize = 4096;
const CALL: usize = 3072;

/// The longest line for the scenario: the shim cuts lines of 1024 bytes.
const LINE: usize = 900;

/// The volume with the scenario's files, in the jail.
static VOLUME: OnceLock<String> = OnceLock::new();

/// The page, shared by this process and its children: in the jail, nothing else is.
static SHARED: OnceLock<Page> = OnceLock::new();

struct Page(NonNull<u8>);

// SAFETY: a process writes to it from one thread, and others read when that process has ended.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    fn new() -> io::Result<Page> {
        let (read_write, shared) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, read_write, shared, -1, 0) };
        NonNull::new(page.cast())
            .filter(|_| page != libc::MAP_FAILED)
            .map(Page)
            .ok_or_else(io::Error::last_os_error)
    }

    fn write(&self, offset: usize, text: &str) {
        let limit = if offset < CALL { CALL - offset } else { PAGE - offset } - 1;
        let length = text.len().min(limit);
        // SAFETY: within the page, with its final zero byte.
        unsafe {
            let to = self.0.as_ptr().add(offset);
            ptr::copy_nonoverlapping(text.as_ptr(), to, length);
            to.add(length).write(0);
        }
    }

    fn read(&self, offset: usize) -> String {
        // SAFETY: the page is never without a zero byte: it begins as zeros, and `write` ends with one.
        unsafe { CStr::from_ptr(self.0.as_ptr().add(offset).cast()) }.to_string_lossy().into_owned()
    }
}

/// A file or directory of the volume, in the jail.
pub fn volume(name: &str) -> String {
    format!("{}/{name}", VOLUME.get().map_or("", String::as_str))
}

/// Makes a system call, and notes its name before.
pub fn call(number: Sysno, arguments: &[usize]) -> Result<usize, Errno> {
    note(number.name());
    raw(number.id() as libc::c_long, arguments)
}

/// Makes a system call that has no name.
pub fn raw(number: libc::c_long, arguments: &[usize]) -> Result<usize, Errno> {
    let argument = |index| arguments.get(index).copied().unwrap_or(0);
    let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(argument);
    // SAFETY: none in general, and this program is there to find out. Callers pass numbers, and pointers that are valid.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    Errno::result(result).map(|result| result as usize)
}

/// Notes what is done next: the filter's victim says no more.
pub fn note(call: &str) {
    if let Some(page) = SHARED.get() {
        page.write(CALL, call);
    }
}

/// So many tries are a part. The shim gives a launch 90 s to come up, and a busy emulated box makes two tries a second.
const PART: usize = 64;

/// Makes a part of all tries, and reports what each got.
pub fn part(prepared: &Prepared, container: &str, part: usize) -> Result<Infallible> {
    set_up(prepared, container)?;
    prepared.enter_unfiltered_jail()?;
    let mut line = String::new();
    for one in ALL.iter().copied().flatten().skip(part * PART).take(PART) {
        let got = format!("{}: {}", one.name, in_child(prepared, one)?);
        if !line.is_empty() && line.len() + got.len() > LINE {
            report(&std::mem::take(&mut line));
        }
        line = if line.is_empty() { got } else { format!("{line} | {got}") };
    }
    report(&line);
    bail!("its part was tried")
}

/// Makes one try in this very process, as the shim launched it.
pub fn alone(prepared: &Prepared, container: &str, name: &str) -> Result<Infallible> {
    set_up(prepared, container)?;
    let one = ALL
        .iter()
        .copied()
        .flatten()
        .find(|one| one.name == name)
        .with_context(|| format!("no try {name}"))?;
    prepared.enter_jail()?;
    report(&format!("{name}: {}", shown(&(one.make)())));
    bail!("it was tried")
}

fn set_up(prepared: &Prepared, container: &str) -> Result<()> {
    let page = Page::new().context("mmap")?;
    ensure!(SHARED.set(page).is_ok(), "set up twice");
    let below = wait_for_volume(prepared, container)?;
    let below = below.strip_prefix(&prepared.config().share).context("a volume in the share")?.display();
    ensure!(VOLUME.set(format!("/share/{below}")).is_ok(), "set up twice");
    Ok(())
}

/// Waits for the volume that has a file with the name `mark`; the shim mounts it after it has launched the vmm.
fn wait_for_volume(prepared: &Prepared, container: &str) -> Result<PathBuf> {
    let mounts = prepared.config().share.join("containers").join(container).join("mounts");
    let deadline = Instant::now() + VOLUME_PATIENCE;
    loop {
        let volumes = fs::read_dir(&mounts).into_iter().flatten().flatten();
        if let Some(found) = volumes.map(|entry| entry.path()).find(|path| path.join("mark").exists()) {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "no volume in {}", mounts.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn shown(outcome: &Outcome) -> String {
    match outcome {
        Ok(detail) if detail.is_empty() => "ok".to_owned(),
        Ok(detail) => format!("ok {detail}"),
        Err(errno) => format!("{errno:?}"),
    }
}

/// Makes one try in a child, and gives what it got.
fn in_child(prepared: &Prepared, one: &Try) -> Result<String> {
    let page = SHARED.get().context("no page")?;
    page.write(0, "");
    page.write(CALL, "the filter");
    // SAFETY: this process has one thread, so that its copy may do anything.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let made = catch_unwind(AssertUnwindSafe(|| match prepared.filter() {
            Ok(()) => page.write(0, &shown(&(one.make)())),
            Err(error) => page.write(0, &format!("no jail: {error:#}")),
        }));
        // SAFETY: ends the child, without handlers.
        unsafe { libc::_exit(made.is_err().into()) }
    }
    ensure!(pid > 0, "fork: {}", io::Error::last_os_error());
    let status = end_of(pid)?;
    let last = page.read(CALL);
    Ok(if libc::WIFSIGNALED(status) {
        match libc::WTERMSIG(status) {
            libc::SIGSYS => format!("killed for {last}"),
            signal => format!("killed by signal {signal} in {last}"),
        }
    } else if libc::WEXITSTATUS(status) != 0 {
        format!("ended in {last}")
    } else {
        page.read(0)
    })
}

/// Waits for a child, and kills it when it takes too long.
fn end_of(pid: libc::pid_t) -> Result<libc::c_int> {
    // SAFETY: numbers.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int;
    ensure!(pidfd >= 0, "pidfd_open: {}", io::Error::last_os_error());
    let mut waited = libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 };
    let mut status = 0;
    // SAFETY: one structure, a child of this process, a place for its status, and a descriptor made above.
    unsafe {
        if libc::poll(&raw mut waited, 1, PATIENCE.as_millis() as libc::c_int) == 0 {
            libc::kill(pid, libc::SIGKILL);
        }
        libc::close(pidfd);
        ensure!(libc::waitpid(pid, &raw mut status, 0) == pid, "waitpid: {}", io::Error::last_os_error());
    }
    Ok(status)
}
