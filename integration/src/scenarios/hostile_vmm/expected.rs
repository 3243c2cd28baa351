//! What each try must get. "killed for" is the filter's work; the name of the call follows. Where the kernels of boxes
//! differ, ` or ` stands between what is right.

use std::collections::BTreeMap;

/// What decides on a vmm's rights.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    /// A container of its own, with a spare NIC in its own network namespace.
    Lone,
    /// The same with a disk.
    Disk,
    /// A pod's sandbox, with the same.
    Pod,
    /// With a NIC that is joined to an interface.
    Tap,
    /// With TSI in its own network namespace.
    Tsi,
    NoNetwork,
    /// With TSI in the box's network namespace, and therefore in the box's user namespace.
    HostNetwork,
}

/// Each try's name, and what it must get.
pub fn of(mode: Mode) -> BTreeMap<String, String> {
    let killed = KILLED.iter().map(|call| (*call, "killed for"));
    let others = EVERYWHERE.iter().copied();
    let sockets = match mode {
        Mode::Tsi | Mode::HostNetwork => TSI,
        Mode::Lone | Mode::Disk | Mode::Pod | Mode::Tap | Mode::NoNetwork => NO_TSI,
    };
    let devices = match mode {
        Mode::Lone | Mode::Disk | Mode::Pod | Mode::Tap => TAP,
        Mode::Tsi | Mode::NoNetwork | Mode::HostNetwork => NO_TAP,
    };
    let own = if mode == Mode::HostNetwork { HOST_NETWORK } else { OWN_NETWORK };
    let disks = if mode == Mode::Disk { DISK } else { NO_DISK };
    let all = killed.chain(others).chain([sockets, devices, own, disks].into_iter().flatten().copied());
    // A try whose name is its only call's needs no second mention of it.
    all.map(|(name, wanted)| match wanted {
        "killed for" => (name.to_owned(), format!("killed for {name}")),
        wanted => (name.to_owned(), wanted.to_owned()),
    })
    .collect()
}

macro_rules! killed_calls {
    ($($name:ident)*) => { &[$(stringify!($name)),*] };
}

/// Calls that no vmm makes.
const KILLED: &[&str] = include!("../../../hostile-vmm/src/tries/killed_calls.rs");

/// What the launched vmm gets itself: Landlock lets only it see its own part of /proc, and not the children that make the other
/// tries.
pub const ITSELF: &[(&str, &str)] = &[
    (
        "status",
        "ok Uid own 0 0 0; Gid 0 0 0 0; Groups; CapInh 0000000000000000; CapPrm 00000000800000db; CapEff 00000000800000db; CapBnd 00000000800000db; NoNewPrivs 1; Seccomp 2; uid_map 0 0 4294967295",
    ),
    ("mounts outside of the share", "ok / /share /sock /dev/kvm /dev/net/tun /proc"),
    ("processes in /proc", "ok 0"),
    ("open /etc/shadow by /proc/1/root", "ENOENT"),
    ("open its descriptors again", "ok 0 EACCES, 1 EACCES, 2 ok, 4 ok"),
];

const EVERYWHERE: &[(&str, &str)] = &[
    // The host's files.
    ("open /etc/shadow", "ENOENT"),
    ("open /etc/shadow by ..", "ENOENT"),
    ("open /etc/shadow by .. of a volume", "ENOENT"),
    ("open /etc/shadow by a link in a volume", "ENOENT"),
    ("open /etc/shadow by /proc/1/root", "EACCES"),
    ("open /etc/shadow by /proc/self/cwd", "ENOENT"),
    ("list /", "EACCES"),
    ("list /dev", "EACCES"),
    ("list /sock", "EACCES"),
    ("list /proc", "EACCES"),
    ("list /sys", "ENOENT"),
    ("list /share", "ok containers dev proc run sys tmp"),
    ("make a file in /", "EROFS"),
    ("make a file in /share", "EROFS"),
    ("make a file in /sock", "EROFS"),
    ("make a file in /dev", "EROFS"),
    ("make a file in a volume", "ok"),
    ("make a device in a volume", "EPERM"),
    ("open a device in a volume", "EACCES"),
    ("execute a program of a volume", "killed for execve"),
    ("read its program", "EACCES"),
    ("write its program", "ETXTBSY"),
    ("link its program into a volume", "EXDEV"),
    ("write its memory by /proc/self/mem", "EROFS"),
    ("write its oom_score_adj", "EROFS"),
    ("write its uid_map", "EROFS"),
    ("open a file of its map_files", "EACCES"),
    // Nothing can be done with it: `setns` kills.
    ("open its namespaces", "ok"),
    ("write core_pattern", "ENOENT"),
    ("write sysrq-trigger", "ENOENT"),
    ("read kcore", "ENOENT"),
    ("read kmsg", "ENOENT"),
    ("read kallsyms", "ENOENT"),
    ("write its cgroup", "ENOENT"),
    ("remove its socket", "EROFS"),
    ("move a volume's file out", "EXDEV"),
    ("set a trusted attribute", "EPERM"),
    // Processes and rights.
    ("processes in /proc", "ok 1"),
    ("fork", "killed for clone"),
    ("clone into a user namespace", "killed for clone"),
    ("clone into a mount namespace", "killed for clone"),
    ("clone into a network namespace", "killed for clone"),
    ("clone a thread that is traced", "killed for clone"),
    ("clone3", "ENOSYS"),
    ("unshare a user namespace", "killed for unshare"),
    ("unshare a mount namespace", "killed for unshare"),
    ("unshare a network namespace", "killed for unshare"),
    ("setns of a descriptor", "killed for setns"),
    ("signal every process", "killed for kill"),
    ("signal another process by tgkill", "killed for tgkill"),
    ("signal itself", "ok"),
    ("execute a file in memory", "killed for memfd_create"),
    ("change its real uid", "killed for setresuid"),
    ("change its saved uid", "killed for setresuid"),
    ("change its effective uid", "ok"),
    ("raise all capabilities", "EPERM"),
    ("become dumpable", "killed for prctl"),
    ("keep its capabilities", "killed for prctl"),
    ("raise an ambient capability", "killed for prctl"),
    ("change its securebits", "killed for prctl"),
    ("change its filter by prctl", "killed for prctl"),
    ("name its thread", "ok"),
    ("raise a limit", "killed for prlimit64"),
    ("read another process's limit", "killed for prlimit64"),
    ("mount a volume read-write again", "killed for mount"),
    ("own a descriptor's signals", "killed for fcntl"),
    ("lock a file", "killed for fcntl"),
    ("read by x32", "killed for x32"),
    // Memory.
    ("map executable memory", "killed for mmap"),
    ("map writable and executable memory", "killed for mmap"),
    ("make memory executable", "killed for mprotect"),
    ("make its program writable", "killed for mprotect"),
    ("poison a page of the host", "EPERM or EINVAL"),
    ("take a page of the host offline", "EPERM or EINVAL"),
    // Sockets.
    ("socket VSOCK", "killed for socket"),
    ("socket NETLINK", "killed for socket"),
    ("socket PACKET", "killed for socket"),
    ("socket ALG", "killed for socket"),
    ("socket XDP", "killed for socket"),
    ("socket INET raw", "killed for socket"),
    ("socket INET6 raw", "killed for socket"),
    ("socket INET stream of SCTP", "killed for socket"),
    ("socket UNIX datagram", "killed for socket"),
    ("socket UNIX seqpacket", "killed for socket"),
    ("socket UNIX stream", "ok"),
    ("connect to containerd by its path", "ENOENT"),
    ("connect to another VM by its path", "ENOENT"),
    // As a process of a container with runc would.
    ("connect to a socket in a volume", "ok"),
    ("connect to its own socket", "ok"),
    ("bind to a device", "killed for setsockopt"),
    ("mark its packets", "killed for setsockopt"),
    ("be transparent", "killed for setsockopt"),
    ("read a peer's credentials", "killed for getsockopt"),
    // Devices.
    ("open /dev/mem", "ENOENT"),
    ("open /dev/kmsg", "ENOENT"),
    ("open /dev/vhost-vsock", "ENOENT"),
    ("open /dev/fuse", "ENOENT"),
    ("open /dev/kvm", "ok"),
    ("make a second VM", "killed for ioctl"),
    ("make a device of KVM's", "killed for ioctl"),
    ("enable a capability of KVM's", "killed for ioctl"),
    ("encrypt memory by KVM", "killed for ioctl"),
    ("own a tap", "killed for ioctl"),
    ("keep a tap", "killed for ioctl"),
    ("filter a tap", "killed for ioctl"),
    ("set an interface's flags", "killed for ioctl"),
    ("set an interface's address", "killed for ioctl"),
    ("own a vhost device", "killed for ioctl"),
    ("type into a terminal", "killed for ioctl"),
    ("paste into a terminal", "killed for ioctl"),
    ("take a controlling terminal", "killed for ioctl"),
    ("freeze a file system", "killed for ioctl"),
    ("set a file's flags", "killed for ioctl"),
    ("clone a file", "killed for ioctl"),
    ("own a descriptor's signals by ioctl", "killed for ioctl"),
    // The kernel asks for a capability first.
    ("link its disk into a volume", "ENOENT"),
    ("set a device read-only", "killed for ioctl"),
    ("read a device's partitions", "killed for ioctl"),
    ("discard a device", "killed for ioctl"),
    ("zero a device", "killed for ioctl"),
    ("send SCSI to a device", "killed for ioctl"),
    ("set a loop device", "killed for ioctl"),
    ("change a loop device", "killed for ioctl"),
    // How much of what the host has only so much of.
    // One of its own may be about to end.
    ("threads", "ok 1021 Some(EAGAIN) or ok 1022 Some(EAGAIN)"),
    ("descriptors", "ok to number 102399 Some(EMFILE)"),
    ("pending signals", "ok 256 Some(EAGAIN)"),
];

const TSI: &[(&str, &str)] = &[
    ("socket INET stream", "ok"),
    ("socket INET6 datagram", "ok"),
    ("listen on a unix socket", "ok"),
    ("connect to the box by 127.0.0.1", "ECONNREFUSED"),
];

const NO_TSI: &[(&str, &str)] = &[
    ("socket INET stream", "killed for socket"),
    ("socket INET6 datagram", "killed for socket"),
    ("listen on a unix socket", "killed for bind"),
    ("connect to the box by 127.0.0.1", "killed for socket"),
];

const TAP: &[(&str, &str)] = &[
    ("mounts outside of the share", "EACCES"),
    ("open /dev/net/tun", "ok"),
    ("attach to a tap that there is not", "EPERM"),
];

const NO_TAP: &[(&str, &str)] = &[
    ("mounts outside of the share", "EACCES"),
    ("open /dev/net/tun", "ENOENT"),
    ("attach to a tap that there is not", "ENOENT"),
];

/// It has its disk, and no other way to it.
const DISK: &[(&str, &str)] = &[
    ("open its descriptors again", "ok 0 EACCES, 1 EACCES, 2 ok, 4 ok, 8 ok"),
    ("open .. of its descriptors", "ok 0 ENOTDIR, 1 ENOTDIR, 2 ENOTDIR, 4 ENOTDIR, 8 ENOTDIR"),
    ("read its disk", "ok"),
    ("make its disk larger", "ok"),
    ("open .. of its disk", "ENOTDIR"),
    ("take the mark off its disk", "EPERM"),
];

const NO_DISK: &[(&str, &str)] = &[
    ("open its descriptors again", "ok 0 EACCES, 1 EACCES, 2 ok, 4 ok"),
    ("open .. of its descriptors", "ok 0 ENOTDIR, 1 ENOTDIR, 2 ENOTDIR, 4 ENOTDIR"),
    ("read its disk", "EBADF"),
    ("make its disk larger", "EBADF"),
    ("open .. of its disk", "EBADF"),
    ("take the mark off its disk", "EBADF"),
];

const OWN_NETWORK: &[(&str, &str)] =
    &[("status", "EACCES"), ("connect to a name of the box", "ECONNREFUSED")];

const HOST_NETWORK: &[(&str, &str)] = &[
    ("status", "EACCES"),
    // Landlock keeps it out from Linux 6.12 on.
    ("connect to a name of the box", "ok or EPERM"),
    ("connect to the box by 127.0.0.1", "ok"),
];
