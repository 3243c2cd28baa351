"""A box as a process: QEMU's command line, starting it, knowing whether it runs, ending it.

Everything about a running box is in its folder. QEMU inherits a lock on a file there, so the lock, not a process id
that somebody else may have by now, says whether the box runs.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass

from . import accel, cache, emulator, remote
from .errors import BoxError, tail

BOOT_PATIENCE = 300  # seconds until "box: ready"; it takes 5 to 10 when the machine has nothing else to do
PORT_ATTEMPTS = 5
# What PID 1 of a box is. systemd takes some seconds longer, and costs the box memory.
INITS = ("busybox", "systemd")


@dataclass(frozen=True)
class Options:
    """What `hack/box up` was asked for, after defaults."""

    containerd: str
    accel: str
    cpus: int
    memory: int  # MiB
    lifetime: int  # seconds after which the box dies by itself
    init: str = INITS[0]
    apparmor: bool = True


class Box:
    """A box by name; nothing of it needs to exist yet."""

    def __init__(self, name, folder=None):
        self.name = name
        self.folder = folder or cache.directory() / "boxes" / name
        self.console = self.folder / "console.log"

    def running(self):
        """Whether its QEMU is alive."""
        try:
            with open(self.folder / "lock", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def state(self):
        """What `start` wrote down; an error when the box is not running."""
        if not self.running():
            raise BoxError(f"box {self.name} is not running; `hack/box up --name {self.name}` starts it")
        return json.loads((self.folder / "state.json").read_text(encoding="utf-8"))

    def wait_until_gone(self, seconds):
        """Waits for its QEMU to end."""
        deadline = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > deadline:
                raise BoxError(f"box {self.name} is still running after {seconds} s; its console: {self.console}")
            time.sleep(0.02)


def start(box, base, options):
    """Starts QEMU and returns when the box's init says that it is ready; leaves nothing behind when that fails."""
    shutil.rmtree(box.folder, ignore_errors=True)
    box.folder.mkdir(parents=True)
    try:
        for file in (remote.KEY, remote.KNOWN_HOSTS):
            shutil.copy(base / file, box.folder / file)
        for attempt in range(1, PORT_ATTEMPTS + 1):
            state = _spawn(box, base, options)
            try:
                _await_ready(box)
                break
            except _PortTaken:
                if attempt == PORT_ATTEMPTS:
                    raise
        remote.connect(box, state)
    except BaseException:
        stop(box)
        raise


def stop(box):
    """Ends a box and removes every trace of it."""
    if box.running():
        pid = box.state()["pid"]
        remote.disconnect(box)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        box.wait_until_gone(10)
    shutil.rmtree(box.folder, ignore_errors=True)


class _PortTaken(BoxError):
    """Another process took the port between our choice and QEMU's bind."""


def _spawn(box, base, options):
    port = _free_port()
    # `timeout` makes a box die by itself, also when QEMU is livelocked and nobody is there any more.
    command = ["timeout", "--signal=KILL", str(options.lifetime), *_qemu(box, base, options, port)]
    with open(box.folder / "lock", "wb") as lock, open(box.folder / "qemu.log", "wb") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=box.folder,
                                       env={**os.environ, "TMPDIR": str(box.folder)}, start_new_session=True,
                                       pass_fds=[lock.fileno()])
        except OSError as error:
            raise BoxError(f"cannot start {command[0]}: {error.strerror}") from error
        state = {"pid": process.pid, "port": port, "options": dataclasses.asdict(options)}
        (box.folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    return state


def _qemu(box, base, options, port):
    icount = options.accel == "icount"
    # tsc=reliable: on a multiprocessor of AMD's that does not promise it, Linux takes the TSC for unsynchronised, uses the
    # slow HPET instead, and has KVM patch up its guests' clocks. QEMU's emulation has one TSC for all processors.
    # With several emulated processors one more comes first, on which nothing is put: QEMU lets the others spoil its state.
    # An icount box is for measuring: no debug log of containerd and the shims there.
    spare = options.accel == "tcg" and options.cpus > 1
    append = (f"console=ttyS0 quiet panic=-1 tsc=reliable apparmor={int(options.apparmor)}"
              f" box.name={box.name} box.accel={options.accel} box.containerd={options.containerd}"
              f" box.init={options.init} box.log_level={'info' if icount else 'debug'}"
              f"{' isolcpus=0' if spare else ''}")
    disk = base / "disk.img"
    command = [
        *emulator.command(), "-name", f"box-{box.name}", *accel.arguments(options.accel),
        "-smp", str(options.cpus + spare), "-display", "none", "-monitor", "none", "-no-reboot",
        "-serial", f"file:{box.console}", "-kernel", str(base / "vmlinuz"), "-initrd", str(base / "initrd"),
        "-append", append, "-nic", "none", "-device", "virtio-rng-pci",
        "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device", "virtio-net-pci,netdev=net,romfile=",
    ]
    if icount:
        # Reading a real disk would warp the instruction clock. This one is memory: a private mapping of the image.
        size = disk.stat().st_size
        total = options.memory + (size >> 20)
        return command + [
            "-M", "q35,nvdimm=on", "-m", f"{options.memory}M,slots=1,maxmem={total}M",
            "-object", f"memory-backend-file,id=disk,mem-path={disk},size={size},share=off,readonly=off",
            "-device", "nvdimm,memdev=disk,unarmed=off",
        ]
    return command + [
        "-M", "q35", "-m", f"{options.memory}M",
        "-drive", f"file={disk},format=raw,if=virtio,cache=unsafe,snapshot=on",
    ]


def _await_ready(box):
    """Follows the console until the init has said "box: ready"."""
    deadline = time.monotonic() + BOOT_PATIENCE
    while True:
        ended = not box.running()
        said = tail(box.console, 1000)
        if "box: ready" in said:
            return
        if ended or "box: failed" in said:
            log = complaints(box)
            kind = _PortTaken if "Could not set up host forwarding" in log else BoxError
            how = "QEMU ended, or was killed at the end of its --lifetime" if ended else "its init failed"
            raise kind(f"box {box.name} did not come up: {how}. QEMU says:\n{log}\nThe console's last lines:\n"
                       f"{tail(box.console)}")
        if time.monotonic() > deadline:
            raise BoxError(f"box {box.name} was not ready after {BOOT_PATIENCE} s; the console's last lines:\n"
                           f"{tail(box.console)}")
        time.sleep(0.05)


def complaints(box):
    """What QEMU said, without its usual warnings about CPU features that TCG does not emulate."""
    lines = tail(box.folder / "qemu.log", 1000).splitlines()
    return "\n".join(line for line in lines if "TCG doesn't support requested feature" not in line)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
