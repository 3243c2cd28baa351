//! The host's files: by every kind of path, by descriptors and links, and by what the jail's own mounts allow.

use std::{
    ffi::CString,
    fs::{self, File},
    io::Read,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::errno::Errno;
use syscalls::Sysno;

use super::{Outcome, Try, done, one};
use crate::attempt::{call, volume};

const AT_FDCWD: usize = libc::AT_FDCWD as usize;
const READ: i32 = libc::O_RDONLY;
const WRITE: i32 = libc::O_WRONLY;

pub const TRIES: &[Try] = &[
    one("open /etc/shadow", || open("/etc/shadow", READ)),
    one("open /etc/shadow by ..", || open("/share/../../../../etc/shadow", READ)),
    one("open /etc/shadow by .. of a volume", || {
        let directory = descriptor(&volume(""), libc::O_PATH | libc::O_DIRECTORY)?;
        at(&directory, "../../../../../../../../etc/shadow", READ)
    }),
    one("open /etc/shadow by a link in a volume", || open(&volume("shadow"), READ)),
    one("open /etc/shadow by /proc/1/root", || open("/proc/1/root/etc/shadow", READ)),
    one("open /etc/shadow by /proc/self/cwd", || open("/proc/self/cwd/../etc/shadow", READ)),
    one("list /", || list("/")),
    one("list /dev", || list("/dev")),
    one("list /sock", || list("/sock")),
    one("list /proc", || list("/proc")),
    one("list /sys", || list("/sys")),
    one("list /share", || list("/share")),
    one("mounts outside of the share", || {
        let text = fs::read_to_string("/proc/self/mountinfo").map_err(errno)?;
        let points = text.lines().filter_map(|line| line.split(' ').nth(4));
        Ok(points.filter(|point| !point.starts_with("/share/")).collect::<Vec<_>>().join(" "))
    }),
    one("open its descriptors again", || {
        Ok(descriptors(|fd| open(&format!("/proc/self/fd/{fd}"), libc::O_RDWR)))
    }),
    one("open .. of its descriptors", || {
        Ok(descriptors(|fd| {
            done(call(Sysno::openat, &[fd as usize, c"..".as_ptr() as usize, READ as usize]))
        }))
    }),
    one("make a file in /", || open("/new", WRITE | libc::O_CREAT)),
    one("make a file in /share", || open("/share/new", WRITE | libc::O_CREAT)),
    one("make a file in /sock", || open("/sock/new", WRITE | libc::O_CREAT)),
    one("make a file in /dev", || open("/dev/new", WRITE | libc::O_CREAT)),
    one("make a file in a volume", || open(&volume("new"), WRITE | libc::O_CREAT)),
    one("make a device in a volume", || {
        let (path, device) = (path(&volume("device")), libc::makedev(1, 1) as usize);
        done(call(
            Sysno::mknodat,
            &[AT_FDCWD, path.as_ptr() as usize, (libc::S_IFCHR | 0o666) as usize, device],
        ))
    }),
    one("open a device in a volume", || open(&volume("mem"), READ)),
    one("execute a program of a volume", || {
        let (path, none) = (path(&volume("program")), [0_usize; 1]);
        done(call(Sysno::execve, &[path.as_ptr() as usize, none.as_ptr() as usize, none.as_ptr() as usize]))
    }),
    one("read its program", || open("/proc/self/exe", READ)),
    one("write its program", || open("/proc/self/exe", WRITE)),
    one("link its program into a volume", || {
        let (from, to) = (c"/proc/self/exe", path(&volume("copy")));
        let (from, to) = (from.as_ptr() as usize, to.as_ptr() as usize);
        done(call(Sysno::linkat, &[AT_FDCWD, from, AT_FDCWD, to, libc::AT_SYMLINK_FOLLOW as usize]))
    }),
    one("write its memory by /proc/self/mem", || open("/proc/self/mem", libc::O_RDWR)),
    one("write its oom_score_adj", || open("/proc/self/oom_score_adj", WRITE)),
    one("write its uid_map", || open("/proc/self/uid_map", WRITE)),
    one("open a file of its map_files", || {
        let names = list("/proc/self/map_files")?;
        open(&format!("/proc/self/map_files/{}", names.split(' ').next().unwrap_or_default()), READ)
    }),
    one("open its namespaces", || open("/proc/self/ns/net", READ)),
    one("write core_pattern", || open("/proc/sys/kernel/core_pattern", WRITE)),
    one("write sysrq-trigger", || open("/proc/sysrq-trigger", WRITE)),
    one("read kcore", || open("/proc/kcore", READ)),
    one("read kmsg", || open("/proc/kmsg", READ)),
    one("read kallsyms", || open("/proc/kallsyms", READ)),
    one("write its cgroup", || open("/sys/fs/cgroup/cgroup.procs", WRITE)),
    one("remove its socket", || {
        done(call(Sysno::unlinkat, &[AT_FDCWD, c"/sock/guest.sock".as_ptr() as usize, 0]))
    }),
    one("move a volume's file out", || {
        let from = path(&volume("mark"));
        let (from, to) = (from.as_ptr() as usize, c"/mark".as_ptr() as usize);
        done(call(Sysno::renameat2, &[AT_FDCWD, from, AT_FDCWD, to, 0]))
    }),
    one("set a trusted attribute", || {
        let path = path(&volume("mark"));
        let name = c"trusted.overlay.opaque".as_ptr() as usize;
        done(call(Sysno::lsetxattr, &[path.as_ptr() as usize, name, c"y".as_ptr() as usize, 1, 0]))
    }),
    one("status", status),
];

fn path(path: &str) -> CString {
    CString::new(path).unwrap_or_default()
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

fn descriptor(name: &str, flags: i32) -> Result<OwnedFd, Errno> {
    let name = path(name);
    let opened = call(Sysno::openat, &[AT_FDCWD, name.as_ptr() as usize, flags as usize, 0o600])?;
    // SAFETY: a new descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(opened as i32) })
}

/// Opens a path.
pub fn open(name: &str, flags: i32) -> Outcome {
    descriptor(name, flags).map(|_| String::new())
}

fn at(directory: &OwnedFd, name: &str, flags: i32) -> Outcome {
    let name = path(name);
    let directory = directory.as_raw_fd() as usize;
    done(call(Sysno::openat, &[directory, name.as_ptr() as usize, flags as usize]))
}

fn list(directory: &str) -> Outcome {
    let mut names: Vec<_> = fs::read_dir(directory)
        .map_err(errno)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names.join(" "))
}

/// What `make` gets of each open descriptor: its number, and the outcome.
fn descriptors(make: impl Fn(i32) -> Outcome) -> String {
    let mut got_by_fd = Vec::new();
    for fd in 0..64 {
        // Of SYS_fcntl only some commands are allowed; this is one.
        if call(Sysno::fcntl, &[fd as usize, libc::F_GETFD as usize]).is_ok() {
            let got = match make(fd) {
                Ok(_) => "ok".to_owned(),
                Err(errno) => format!("{errno:?}"),
            };
            got_by_fd.push(format!("{fd} {got}"));
        }
    }
    got_by_fd.join(", ")
}

/// What the kernel says of this process's rights, as far as it is the same for each vmm of a kind.
fn status() -> Outcome {
    const LINES: [&str; 9] =
        ["Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"];
    let mut text = String::new();
    File::open("/proc/self/status").and_then(|mut file| file.read_to_string(&mut text)).map_err(errno)?;
    let lines = text.lines().filter(|line| LINES.iter().any(|name| line.starts_with(name)));
    let lines = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").replacen(':', "", 1));
    // The real uid is the vmm's own, and another for each.
    // SAFETY: it has no arguments.
    let own = unsafe { libc::getuid() };
    let lines = lines.map(|line| match own {
        0xf000_0000.. => line.replace(&own.to_string(), "own"),
        _ => line,
    });
    let map = fs::read_to_string("/proc/self/uid_map").map_err(errno)?;
    let map = map.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(lines.chain([format!("uid_map {map}")]).collect::<Vec<_>>().join("; "))
}
