"""What a process sees and may do, one fact a line: the same under every runtime, or the runtimes differ."""
import errno, json, os, pty, resource, socket, stat, subprocess, sys


def fact(name, value):
    print(f"{name}: {value}")


def attempt(name, action):
    try:
        fact(name, action())
    except (OSError, ValueError) as error:
        fact(name, errno.errorcode.get(getattr(error, "errno", None), type(error).__name__))


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def write(path, text="x"):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return "written"


def mknod(path, major, minor):
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(major, minor))
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    return "opened"


fact("ids", (os.getresuid(), os.getresgid(), sorted(os.getgroups())))
mask = os.umask(0)
os.umask(mask)
fact("umask", oct(mask))
for line in read("/proc/self/status").splitlines():
    if line.startswith(("Cap", "NoNewPrivs", "Seccomp:")):
        fact("status", " ".join(line.split()))
for name in sorted(n for n in dir(resource) if n.startswith("RLIMIT_")):
    # What a machine gives by its size is not the runtime's.
    if name in ("RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_STACK", "RLIMIT_AS", "RLIMIT_CPU"):
        fact(name, resource.getrlimit(getattr(resource, name)))
fact("oom_score_adj", read("/proc/self/oom_score_adj").strip())
fact("hostname", socket.gethostname())
fact("domainname", read("/proc/sys/kernel/domainname").strip())
fact("cwd", os.getcwd())
fact("env", sorted(os.environ.items()))
fact("pid", os.getpid())
fact("arguments", sys.argv[1:])
fact("fds", sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")))
# Files that not every kernel has.
sparse = ("/proc/acpi", "/proc/asound", "/proc/sysrq-trigger", "/proc/scsi", "/proc/latency_stats")
flags = ("ro", "nosuid", "nodev", "noexec")
for line in sorted(read("/proc/self/mountinfo").splitlines(), key=lambda line: line.split()[4]):
    before, after = line.split(" - ")
    fields, kind = before.split(), after.split()[0]
    options = [option for option in fields[5].split(",") if option in flags]
    # A rootfs, and what is bound from the host, is of the host's kind or virtiofs.
    where = fields[4]
    bound = where.startswith(("/data", "/file"))
    shown = "host" if bound or kind not in ("proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2") else kind
    extra = [o for o in after.split()[2].split(",") if shown == "tmpfs" and o.split("=")[0] in ("mode", "size")]
    # Masked files are null devices, and masked directories empty: of whose kind, is the runtime's business.
    if not where.startswith(("/proc/", "/sys/firmware", "/sys/devices")):
        fact("mount", (where, shown, options, extra))
    elif where.startswith("/proc/") and where not in sparse:
        fact("mount", (where, options if "ro" in options else []))
for name in sorted(os.listdir("/dev")):
    path = f"/dev/{name}"
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        fact("dev", (name, os.readlink(path)))
    elif stat.S_ISCHR(status.st_mode) and name != "console":
        fact("dev", (name, oct(status.st_mode), os.major(status.st_rdev), os.minor(status.st_rdev), status.st_uid))
    else:
        fact("dev", (name, stat.filemode(status.st_mode)[0]))
for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"):
    if os.path.isdir(path):
        attempt(f"masked {path}", lambda: os.listdir(path))
    elif os.path.exists(path):
        attempt(f"masked {path}", lambda: read(path)[:20])
for path in ("/proc/sys/kernel/hostname", "/sys/kernel/uevent_helper", "/etc/made", "/tmp/made",
             "/dev/made", "/scratch/made", "/data/made", "/data-ro/made", "/file", "/dev/shm/made", "/proc/irq/made"):
    attempt(f"write {path}", lambda: write(path))
for path in ("/data/made", "/scratch/made"):
    attempt(f"owner {path}", lambda: (os.stat(path).st_uid, os.stat(path).st_gid, oct(os.stat(path).st_mode)))
attempt("chown", lambda: os.chown("/data/made", 12, 34) or "done")
attempt("xattr", lambda: os.setxattr("/data/made", "user.colour", b"red") or os.getxattr("/data/made", "user.colour"))
attempt("group directory", lambda: write("/data/group/made") + str(os.stat("/data/group/made").st_gid))
attempt("read file", lambda: read("/file"))
attempt("run in noexec", lambda: subprocess.run(["/scratch/true"], check=False).returncode)
attempt("mknod mem", lambda: mknod("/dev/mem2", 1, 1))
attempt("mknod null", lambda: mknod("/dev/null2", 1, 3))
attempt("mount", lambda: subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], stderr=2, check=False).returncode)
attempt("sethostname", lambda: socket.sethostname("other") or "done")
attempt("raise nofile", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)) or "done")
attempt("ping socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) and "made")
attempt("openpty", lambda: os.ttyname(pty.openpty()[1]))
for name in ("kernel.shm_rmid_forced", "fs.mqueue.msg_max", "kernel.msgmax"):
    attempt(f"sysctl {name}", lambda: read("/proc/sys/" + name.replace(".", "/")).strip())
fact("cgroup", read("/proc/self/cgroup").strip())
for name in ("memory.max", "pids.max", "cpu.max", "cpu.weight"):
    attempt(f"cgroup {name}", lambda: read(f"/sys/fs/cgroup/{name}").strip())
fact("processes", sorted(pid for pid in os.listdir("/proc") if pid.isdigit()))
