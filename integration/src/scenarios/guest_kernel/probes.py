# Tries what a kernel can do, and prints a row of Markdown for each: what, whether, and how it was tried. It runs as root with
# every capability, in a container whose /usr is the box's. A try is made in a child of its own: it may do anything.
import ctypes, errno, fcntl, mmap, os, signal, socket, struct, subprocess, sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = libc.mmap.restype = ctypes.c_long
NET, USER, NS = 0x40000000, 0x10000000, 0x00020000
os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
DIR = "/tmp"  # a tmpfs


class Absent(Exception):
    pass


def call(number, *arguments):
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def run(*words):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise Absent(next((line for line in lines if "rror" in line or "annot" in line), lines[0]))


def there(path):
    os.stat(path)


def link(kind, *more):
    return lambda: run("ip", "link", "add", "x0", *more, "type", *kind.split())


def on_dummy(kind):
    def attempt():
        run("ip", "link", "add", "d0", "type", "dummy")
        run("ip", "link", "add", "link", "d0", "name", "x0", "type", *kind.split())
    return attempt


def nft(chain, *rules):
    text = f"add table inet t; add chain inet t c {{ {chain} }}; " + "; ".join(f"add rule inet t c {r}" for r in rules)
    return lambda: run("nft", text)


def iptables(*words):
    return lambda: run(*words)


def tc(*words):
    def attempt():
        run("ip", "link", "add", "d0", "type", "dummy")
        run("tc", "qdisc", "add", "dev", "d0", *words)
    return attempt


def sock(*kind):
    return lambda: socket.socket(*kind).close()


def filesystem(kind, source="none", options=None):
    """Known to the kernel: one that is not gives ENODEV."""
    def attempt():
        os.makedirs(f"{DIR}/m", exist_ok=True)
        data = options and options.encode()
        if libc.mount(source.encode(), f"{DIR}/m".encode(), kind.encode(), 0, data) < 0:
            error = ctypes.get_errno()
            if error == errno.ENODEV or (options is not None):
                raise OSError(error, os.strerror(error))
    return attempt


def overlay():
    for name in ("l", "u", "w"):
        os.makedirs(f"{DIR}/o/{name}")
    filesystem("overlay", options=f"lowerdir={DIR}/o/l,upperdir={DIR}/o/u,workdir={DIR}/o/w")()


def device(major, minor, request=None, *argument, block=False):
    """Its driver answers."""
    def attempt():
        os.mknod(f"{DIR}/dev", 0o600 | (0o060000 if block else 0o020000), os.makedev(major, minor))
        fd = os.open(f"{DIR}/dev", os.O_RDWR)
        if request is not None:
            fcntl.ioctl(fd, request, *argument)
    return attempt


def loop():
    os.mknod(f"{DIR}/control", 0o020600, os.makedev(10, 237))
    number = fcntl.ioctl(os.open(f"{DIR}/control", os.O_RDWR), 0x4C82)  # LOOP_CTL_GET_FREE
    os.mknod(f"{DIR}/loop", 0o060600, os.makedev(7, number))
    with open(f"{DIR}/image", "wb") as image:
        image.truncate(1 << 20)
        fcntl.ioctl(os.open(f"{DIR}/loop", os.O_RDWR), 0x4C00, image.fileno())  # LOOP_SET_FD


def namespace(flag):
    return lambda: call(272, flag)  # unshare


def ia32():
    """mov eax, 1; mov ebx, 42; int 0x80: exit(42) of 32 bits."""
    code = bytes.fromhex("b801000000bb2a000000cd80")
    head = b"\x7fELF\x01\x01\x01".ljust(16, b"\0") + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x8048054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    head += struct.pack("<IIIIIIII", 1, 0, 0x8048000, 0x8048000, 84 + len(code), 84 + len(code), 5, 4096)
    with open(f"{DIR}/ia32", "wb") as program:
        program.write(head + code)
    os.chmod(f"{DIR}/ia32", 0o700)
    status = subprocess.run([f"{DIR}/ia32"]).returncode
    if status != 42:
        raise Absent(f"status {status}")


def bpf_program(kind, attach=0):
    """r0 = 1; exit."""
    def attempt():
        code = ctypes.create_string_buffer(bytes.fromhex("b7000000010000009500000000000000"))
        text = ctypes.create_string_buffer(b"GPL")
        fields = struct.pack("<IIQQIIQII16sII", kind, 2, ctypes.addressof(code), ctypes.addressof(text), 0, 0, 0, 0, 0, b"", 0, attach)
        attributes = ctypes.create_string_buffer(fields, 128)
        return call(321, 5, ctypes.byref(attributes), 128)
    return attempt


def bpf_map():
    attributes = ctypes.create_string_buffer(struct.pack("<IIII", 2, 4, 4, 1), 128)
    call(321, 0, ctypes.byref(attributes), 128)


def perf(kind, config):
    def attempt():
        attributes = ctypes.create_string_buffer(struct.pack("<IIQ", kind, 128, config), 128)
        call(298, ctypes.byref(attributes), 0, -1, -1, 0)
    return attempt


def kprobe():
    with open("/sys/bus/event_source/devices/kprobe/type") as kind:
        int(kind.read())


def uffd():
    fd = call(323, 1)  # for faults of the process itself
    fcntl.ioctl(fd, 0xC018AA3F, bytearray(struct.pack("<QQQ", 0xAA, 0, 0)))  # UFFDIO_API


def uring():
    call(425, 2, ctypes.byref(ctypes.create_string_buffer(120)))


def landlock():
    return f"version {call(444, 0, 0, 1)}"


def lsm(name):
    def attempt():
        filesystem("securityfs", options="")()
        with open(f"{DIR}/m/lsm") as names:
            if name not in names.read().split(","):
                raise Absent("not in /sys/kernel/security/lsm")
    return attempt


def notify():
    call(317, 2, 0, ctypes.byref(ctypes.c_uint32(0x7FC00000)))  # GET_ACTION_AVAIL, USER_NOTIF


def alg(kind, name):
    def attempt():
        with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as made:
            made.bind((kind, name))
    return attempt


def controller(name):
    def attempt():
        filesystem("cgroup2", options="")()
        with open(f"{DIR}/m/cgroup.controllers") as names:
            if name not in names.read().split():
                raise Absent("not in cgroup.controllers")
    return attempt


def madvise(advice):
    def attempt():
        with mmap.mmap(-1, 4096) as area:
            area.madvise(advice)
    return attempt


def xattr(name, value):
    def attempt():
        with open(f"{DIR}/file", "w"):
            os.setxattr(f"{DIR}/file", name, value)
    return attempt


def tmpfile():
    os.close(os.open(DIR, os.O_TMPFILE | os.O_RDWR))


def huge_pages():
    there("/sys/kernel/mm/hugepages/hugepages-2048kB")


def remote_memory():
    here = ctypes.create_string_buffer(b"x")
    vector = struct.pack("<QQ", ctypes.addressof(here), 1)
    words = ctypes.create_string_buffer(vector)
    call(310, os.getpid(), ctypes.byref(words), 1, ctypes.byref(words), 1, 0)


def tun():
    os.mknod(f"{DIR}/tun", 0o020600, os.makedev(10, 200))
    fcntl.ioctl(os.open(f"{DIR}/tun", os.O_RDWR), 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))


def mq():
    queue = libc.mq_open(b"/probe", os.O_CREAT | os.O_RDWR, 0o600, None)
    if queue < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def exists(number, *arguments):
    """A call that the kernel knows: one that it does not gives ENOSYS."""
    def attempt():
        try:
            call(number, *arguments)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
                raise
    return attempt


def legacy(family):
    """iptables-legacy asks for the table's size."""
    return iptables("iptables-legacy" if family == 4 else "ip6tables-legacy", "-L", "-n")


def ipset():
    """Asks for the protocol's version (IPSET_CMD_PROTOCOL), by nfnetlink."""
    attribute = struct.pack("<HHB3x", 5, 1, 7)
    body = struct.pack("BBH", socket.AF_INET, 0, 0) + attribute
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as made:
        made.send(struct.pack("<IHHII", 16 + len(body), 6 << 8 | 1, 5, 1, 0) + body)
        answer = made.recv(4096)
    kind, error = struct.unpack_from("<H", answer, 4)[0], struct.unpack_from("<i", answer, 16)[0]
    if kind == 2 and error:
        raise OSError(-error, os.strerror(-error))


def pressure():
    with open("/proc/pressure/memory") as file:
        file.read()


NAT = "type nat hook postrouting priority 100;"
TO = "type nat hook prerouting priority -100;"
IN = "type filter hook input priority 0;"
PROBES = {
    "Packet filter, by `nft`": [
        ("a table, a chain, a counter", nft(IN, "counter accept"), "`nft add rule`"),
        ("connection tracking", nft(IN, "ct state established accept"), "`ct state`"),
        ("masquerade, SNAT, DNAT", nft(NAT, "masquerade", "snat ip to 10.0.0.1"), "`masquerade`, `snat`"),
        ("redirect", nft(TO, "tcp dport 80 redirect to :8080"), "`redirect`"),
        ("fib", nft(TO, "fib daddr type local accept"), "`fib daddr type local`"),
        ("reject", nft(IN, "reject"), "`reject`"),
        ("log", nft(IN, "log"), "`log`"),
        ("limit", nft(IN, "limit rate 1/second accept"), "`limit rate`"),
        ("sets and maps", nft(IN, "tcp dport { 1, 2 } accept"), "`tcp dport { 1, 2 }`"),
        ("tproxy", nft("type filter hook prerouting priority -150;", "meta l4proto tcp tproxy ip to 127.0.0.1:1"), "`tproxy`"),
        ("a table of bridges", lambda: run("nft", "add table bridge t; add chain bridge t c { type filter hook forward priority 0; }"), "a `bridge` chain"),
        ("a table of a device (ingress)", lambda: run("nft", "add table netdev t; add chain netdev t c { type filter hook ingress device lo priority 0; }"), "a `netdev` chain"),
    ],
    "Packet filter, by `iptables`": [
        ("iptables-nft: a plain rule", iptables("iptables-nft", "-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "ACCEPT"), "`iptables-nft -A INPUT -p tcp --dport 80 -j ACCEPT`"),
        ("iptables-nft: `-m conntrack`", iptables("iptables-nft", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"), "a rule"),
        ("iptables-nft: `-m comment`", iptables("iptables-nft", "-A", "INPUT", "-m", "comment", "--comment", "x", "-j", "ACCEPT"), "a rule"),
        ("iptables-nft: `-m addrtype`", iptables("iptables-nft", "-A", "INPUT", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "ACCEPT"), "a rule"),
        ("iptables-nft: `-m owner`", iptables("iptables-nft", "-A", "OUTPUT", "-m", "owner", "--uid-owner", "1337", "-j", "ACCEPT"), "a rule, as service meshes have"),
        ("iptables-nft: `-j MASQUERADE`", iptables("iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE"), "a rule"),
        ("iptables-nft: `-j REDIRECT`", iptables("iptables-nft", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15001"), "a rule, as service meshes have"),
        ("iptables-nft: `-j MARK`", iptables("iptables-nft", "-t", "mangle", "-A", "PREROUTING", "-j", "MARK", "--set-mark", "1"), "a rule"),
        ("iptables-legacy", legacy(4), "`iptables-legacy -L`"),
        ("ip6tables-legacy", legacy(6), "`ip6tables-legacy -L`"),
        ("ipset", ipset, "its netlink request"),
    ],
    "Network": [
        ("IPv6", sock(socket.AF_INET6, socket.SOCK_STREAM), "a socket"),
        ("rules (`ip rule`)", lambda: run("ip", "rule", "add", "fwmark", "1", "table", "100"), "`ip rule add`"),
        ("dummy", link("dummy"), "`ip link add`"),
        ("bridge", link("bridge"), "`ip link add`"),
        ("veth", link("veth peer name x1"), "`ip link add`"),
        ("macvlan", on_dummy("macvlan"), "`ip link add`"),
        ("ipvlan", on_dummy("ipvlan"), "`ip link add`"),
        ("vlan", on_dummy("vlan id 5"), "`ip link add`"),
        ("vxlan", link("vxlan id 5 dstport 4789"), "`ip link add`"),
        ("geneve", link("geneve id 5 remote 10.0.0.1"), "`ip link add`"),
        ("ipip, gre", link("gre remote 10.0.0.1 local 10.0.0.2"), "`ip link add … type gre`"),
        ("wireguard", link("wireguard"), "`ip link add`"),
        ("bond", link("bond"), "`ip link add`"),
        ("vrf", link("vrf table 5"), "`ip link add`"),
        ("ifb", link("ifb"), "`ip link add`"),
        ("tun and tap", tun, "`TUNSETIFF`"),
        ("qdisc htb", tc("root", "htb"), "`tc qdisc add`"),
        ("qdisc fq_codel", tc("root", "fq_codel"), "`tc qdisc add`"),
        ("qdisc netem", tc("root", "netem", "delay", "1ms"), "`tc qdisc add`"),
        ("qdisc clsact (for BPF)", tc("clsact"), "`tc qdisc add`"),
        ("packet sockets", sock(socket.AF_PACKET, socket.SOCK_RAW), "a socket"),
        ("raw sockets", sock(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP), "a socket"),
        ("vsock", sock(socket.AF_VSOCK, socket.SOCK_STREAM), "a socket"),
        ("XDP sockets", sock(44, socket.SOCK_RAW), "a socket"),
        ("MPTCP", sock(socket.AF_INET, socket.SOCK_STREAM, 262), "a socket"),
        ("SCTP", sock(socket.AF_INET, socket.SOCK_STREAM, 132), "a socket"),
        ("IPsec (xfrm)", lambda: run("ip", "xfrm", "state", "list"), "`ip xfrm state list`"),
        ("PF_KEY", sock(15, socket.SOCK_RAW, 2), "a socket"),
        ("BBR", lambda: socket.socket().setsockopt(6, 13, b"bbr"), "`TCP_CONGESTION`"),
        ("kernel TLS", lambda: socket.socket().setsockopt(6, 31, b"tls"), "`TCP_ULP`"),
    ],
    "File systems and devices": [
        ("overlayfs", overlay, "mounted on a tmpfs"),
        *[(name, filesystem(name), "known to mount(2)") for name in (
            "ext4", "xfs", "btrfs", "f2fs", "erofs", "squashfs", "iso9660", "udf", "vfat", "exfat", "ntfs3", "nfs", "nfs4", "cifs", "ceph", "9p",
            "fuse", "binfmt_misc", "mqueue", "hugetlbfs", "tracefs", "debugfs", "bpf", "configfs")],
        ("FUSE", device(10, 229), "open of its device"),
        ("loop devices", loop, "`LOOP_SET_FD`"),
        ("device mapper", device(10, 236, 0xC138FD00, bytearray(struct.pack("<IIIII", 4, 0, 0, 312, 0).ljust(312, b"\0"))), "`DM_VERSION`"),
        ("nbd", device(43, 0, block=True), "open of a device"),
        ("/dev/ptp0", lambda: there("/sys/class/ptp/ptp0"), "in /sys"),
        ("/dev/uinput", device(10, 223), "open of its device"),
        ("inotify", lambda: call(294, 0), "inotify_init1"),
        ("fanotify", lambda: call(300, 0, 0), "fanotify_init"),
        ("fanotify with permission events", lambda: call(300, 4, 0), "fanotify_init"),
        ("POSIX ACLs on tmpfs", xattr("system.posix_acl_access", struct.pack("<IHHIHHIHHIHHIHHI", 2, 1, 6, 0xFFFFFFFF, 2, 4, 7, 4, 4, 0xFFFFFFFF, 16, 4, 0xFFFFFFFF, 32, 4, 0xFFFFFFFF)), "setxattr"),
        ("user attributes on tmpfs", xattr("user.x", b"1"), "setxattr"),
        ("O_TMPFILE on tmpfs", tmpfile, "open"),
        ("quotas", exists(179, 0x80000100, 0, 0, 0), "quotactl"),
        ("swap", exists(167, b"/none", 0), "swapon"),
    ],
    "Processes, memory, observation": [
        ("32-bit programs", ia32, "execve of one"),
        ("user namespaces", namespace(USER), "unshare"),
        ("network, mount, pid, ipc, uts, cgroup namespaces", namespace(NET | NS | 0x20000000 | 0x08000000 | 0x04000000 | 0x02000000), "unshare"),
        ("time namespaces", namespace(0x80), "unshare"),
        *[(f"cgroup controller {name}", controller(name), "cgroup.controllers") for name in (
            "cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma", "misc")],
        ("pressure (PSI)", pressure, "read of /proc/pressure"),
        ("seccomp with notifications", notify, "`SECCOMP_GET_ACTION_AVAIL`"),
        ("Landlock", landlock, "landlock_create_ruleset"),
        ("AppArmor", lsm("apparmor"), "list of LSMs"),
        ("SELinux", lsm("selinux"), "list of LSMs"),
        ("BPF LSM", lsm("bpf"), "list of LSMs"),
        ("Yama", lsm("yama"), "list of LSMs"),
        ("audit", sock(socket.AF_NETLINK, socket.SOCK_RAW, 9), "a socket"),
        ("BPF: maps", bpf_map, "`BPF_MAP_CREATE`"),
        ("BPF: socket filters", bpf_program(1), "`BPF_PROG_LOAD`"),
        ("BPF: tc", bpf_program(3), "`BPF_PROG_LOAD`"),
        ("BPF: XDP", bpf_program(6), "`BPF_PROG_LOAD`"),
        ("BPF: of a cgroup (skb)", bpf_program(8), "`BPF_PROG_LOAD`"),
        ("BPF: of a cgroup (devices)", bpf_program(15), "`BPF_PROG_LOAD`"),
        ("BPF: kprobes", bpf_program(2), "`BPF_PROG_LOAD`"),
        ("BPF: tracepoints", bpf_program(5), "`BPF_PROG_LOAD`"),
        ("BTF", lambda: there("/sys/kernel/btf/vmlinux"), "in /sys"),
        ("kprobes by perf", kprobe, "in /sys"),
        ("ftrace", lambda: (filesystem("tracefs", options="")(), there(f"{DIR}/m/current_tracer")), "tracefs"),
        ("perf: software events", perf(1, 0), "perf_event_open"),
        ("io_uring", uring, "io_uring_setup"),
        ("userfaultfd", uffd, "`UFFDIO_API`"),
        ("asynchronous I/O (aio)", lambda: call(206, 1, ctypes.byref(ctypes.c_ulong(0))), "io_setup"),
        ("modify_ldt", exists(154, 0, 0, 0), "modify_ldt"),
        ("NUMA (set_mempolicy, mbind)", lambda: call(238, 0, 0, 0), "set_mempolicy"),
        ("KSM", madvise(12), "madvise"),
        ("transparent huge pages", madvise(14), "madvise"),
        ("huge pages (hugetlb)", huge_pages, "in /sys"),
        ("memfd_secret", lambda: call(447, 0), "memfd_secret"),
        ("process_vm_readv", remote_memory, "process_vm_readv"),
        ("kcmp", lambda: call(312, os.getpid(), os.getpid(), 2, 0, 0), "kcmp"),
        ("checkpoint and restore (CRIU)", lambda: there("/proc/self/map_files") or there(f"/proc/{os.getpid()}/task/{os.getpid()}/children"), "in /proc"),
        ("keys", lambda: call(248, b"user", b"probe", b"x", 1, -1), "add_key"),
        ("System V IPC", lambda: call(29, 0, 4096, 0o1600), "shmget"),
        ("POSIX message queues", mq, "mq_open"),
        ("AF_ALG: sha256", alg("hash", "sha256"), "bind"),
        ("AF_ALG: aes", alg("skcipher", "cbc(aes)"), "bind"),
        ("modules", exists(175, 0, 0, 0), "init_module"),
        ("kexec", exists(246, 0, 0, 0, 0), "kexec_load"),
        ("process accounting", exists(163, 0), "acct"),
        ("core dumps", lambda: there("/proc/self/coredump_filter"), "in /proc"),
        ("/proc/config.gz", lambda: there("/proc/config.gz"), "in /proc"),
    ],
}


def answer(attempt):
    try:
        more = attempt()
        return "yes" + (f", {more}" if isinstance(more, str) else "")
    except OSError as error:
        return f"no ({errno.errorcode.get(error.errno, error.errno)})"
    except Absent as error:
        return f"no ({str(error)[:120].replace('|', '/')})"


def in_child(attempt):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            call(272, NET | NS)
            libc.mount(b"none", b"/", None, 0x44000, None)  # MS_REC | MS_PRIVATE
            if libc.mount(b"probe", DIR.encode(), b"tmpfs", 0, None) < 0:
                raise RuntimeError("no tmpfs")
            os.write(write, answer(attempt).encode())
            os._exit(0)
        except BaseException as error:
            os.write(write, f"BROKEN {error!r}".encode())
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as result:
        text = result.read()
    _, status = os.waitpid(child, 0)
    return text or f"BROKEN: status {status}"


for title, probes in PROBES.items():
    print(f"| **{title}** | | |")
    for name, attempt, how in probes:
        print(f"| {name} | {in_child(attempt)} | {how} |", flush=True)
