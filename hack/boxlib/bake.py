"""Boots a fresh base once, with its disk writable, and lets each containerd import its images into it."""

import subprocess

from . import machine, remote
from .errors import BoxError

# The large images are baked for this containerd; the others have busybox.
COMPLETE = "2.1"


def bake(base, archives, containerds, work):
    """Leaves the state of every containerd, images unpacked, as /var/lib/containerd-VERSION on base/disk.img."""
    box = machine.Box("bake", work / "bake")
    options = machine.Options(containerd=COMPLETE, accel="tcg", cpus=2, memory=4096, lifetime=1800)
    machine.start(box, base, options, writable=True)
    try:
        for version in containerds:
            _run(box, f"containerd-ctl stop && use-containerd {version} && containerd-ctl start")
            with open(archives["all" if version == COMPLETE else "busybox"], "rb") as archive:
                _run(box, "ctr images import -", stdin=archive)
            _run(box, f"containerd-ctl stop && mv /var/lib/containerd /var/lib/containerd-{version}")
        # `poweroff -f` syncs no more than it must: the disk has to be whole before QEMU goes.
        _run(box, "rm -f /var/log/containerd.log && sync && mount -o remount,ro /")
        _run(box, "(busybox poweroff -f) >/dev/null 2>&1 &")
        box.wait_until_gone(60)
    finally:
        machine.stop(box)


def _run(box, script, **options):
    command = remote.exec_command(box, ["sh", "-c", script], tty=False)
    done = subprocess.run(command, cwd=box.folder, check=False, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **options)
    if done.returncode != 0:
        raise BoxError(f"while the images were imported, `{script}` ended in the box with status {done.returncode}:\n"
                       f"{done.stdout}")
