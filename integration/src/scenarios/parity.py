# Prints what a process finds in its container, a line for each thing: KEY<tab>VALUE.
import os, re, stat, sys


def say(key, value):
    print(f"{key}\t{value}")


def text(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError as error:
        return os.strerror(error.errno)


STATUS = ("Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Speculation_Store_Bypass",
          "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
for line in text("/proc/self/status").splitlines():
    key, _, value = line.partition(":")
    if key in STATUS:
        say(f"/proc/self/status {key}", " ".join(value.split()))
for line in text("/proc/self/limits").splitlines()[1:]:
    say(f"limit {line[:25].strip()}", " ".join(line[26:].split()[:2]))
for file in ("oom_score_adj", "uid_map", "gid_map", "setgroups", "cgroup", "timens_offsets", "loginuid", "personality", "coredump_filter"):
    say(f"/proc/self/{file}", " ".join(text(f"/proc/self/{file}").split()))

# Options that a file system has of its own, as its size, are the host's or the image's.
for line in text("/proc/self/mountinfo").splitlines():
    before, _, after = line.partition(" - ")
    fields, (kind, _, options) = before.split(), after.split()[:3]
    shown = sorted(o for o in options.split(",") if not re.match("(lowerdir|upperdir|workdir|nr_inodes|inode64|uuid|xino|index|redirect_dir|size=[0-9]{6,}k)", o))
    say(f"mount {fields[4]}", f"{kind}, {fields[5]}, {','.join(shown)}, {' '.join(f.split(':')[0] for f in fields[6:]) or 'private'}")


def entry(path):
    found = os.lstat(path)
    value = f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid}"
    if stat.S_ISLNK(found.st_mode):
        return f"{value} -> {os.readlink(path)}"
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        return f"{value} {os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return value


# Of those with numbers, the first stands for all.
for name in sorted({re.sub("[0-9]+$", "", name): name for name in sorted(os.listdir("/dev"), reverse=True)}.values()):
    say(f"/dev/{name}", entry(f"/dev/{name}"))
for path in ("/", "/proc", "/sys", "/dev", "/run", "/tmp", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab"):
    say(path, entry(path) if os.path.lexists(path) else "not there")
for name in sorted(os.listdir("/proc")):
    if not name.isdigit():
        say(f"/proc/{name}", "there")
for name in sorted(os.listdir("/sys")):
    say(f"/sys/{name}", "there")
for name in sorted(os.listdir("/sys/fs/cgroup")):
    say(f"/sys/fs/cgroup/{name}", "there")
for file in ("cgroup.controllers", "cgroup.subtree_control", "cgroup.type", "memory.max", "memory.high", "memory.low", "memory.swap.max",
             "memory.oom.group", "pids.max", "cpu.max", "cpu.weight", "cpuset.cpus"):
    say(f"cgroup {file}", " ".join(text(f"/sys/fs/cgroup/{file}").split()))
for name in ("net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.ip_forward", "net.core.somaxconn",
             "kernel.hostname", "kernel.domainname", "kernel.shmmax", "kernel.shm_rmid_forced", "kernel.msgmax", "fs.mqueue.msg_max",
             "vm.overcommit_memory", "kernel.pid_max", "fs.nr_open"):
    say(f"sysctl {name}", " ".join(text("/proc/sys/" + name.replace(".", "/")).split()))
for name, value in sorted(os.environ.items()):
    say(f"environment {name}", value)
for name in sorted(os.listdir("/proc/self/ns")):
    mine, init = (os.readlink(f"/proc/{pid}/ns/{name}") for pid in ("self", "1"))
    say(f"namespace {name}", "that of PID 1" if mine == init else "its own")
for number in range(10):
    try:
        say(f"descriptor {number}", re.sub("[0-9]+", "N", os.readlink(f"/proc/self/fd/{number}")))
    except OSError as error:
        say(f"descriptor {number}", os.strerror(error.errno))
say("pid, parent, group, session", f"{os.getpid()} {os.getppid()} {os.getpgrp()} {os.getsid(0)}")
say("directory", os.getcwd())
say("niceness, policy", f"{os.getpriority(os.PRIO_PROCESS, 0)} {os.sched_getscheduler(0)}")
