"""Boots a fresh base once, with its disk writable, and lets each containerd import its images into it."""

import subprocess

from . import accel, machine, remote
from .errors import BoxError


def bake(base, archive, containerds, work):
    """Leaves the state of every containerd, images unpacked, as /var/lib/containerd-VERSION on base/disk.img."""
    box = machine.Box("bake", work / "bake")
    options = machine.Options(containerd=containerds[0], accel=accel.choose(base), cpus=2, memory=4096, lifetime=1800)
    machine.start(box, base, options, writable=True)
    try:
        for version in containerds:
            _run(box, f"containerd-ctl stop && use-containerd {version} && containerd-ctl start")
            with open(archive, "rb") as images:
                _run(box, "ctr images import -", stdin=images)
            _run(box, f"containerd-ctl stop && mv /var/lib/containerd /var/lib/containerd-{version}")
        # After this the disk image is whole, and QEMU can be ended like any box.
        _run(box, "rm -f /var/log/containerd.log && sync && mount -o remount,ro /")
    finally:
        machine.stop(box)


def _run(box, script, **options):
    command = remote.exec_command(box, ["sh", "-c", script], tty=False)
    done = subprocess.run(command, cwd=box.folder, check=False, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **options)
    if done.returncode != 0:
        raise BoxError(f"while the images were imported, `{script}` ended in the box with status {done.returncode}:\n"
                       f"{done.stdout}")
