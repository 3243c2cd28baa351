"""Which accelerator a box gets: real KVM where it works, QEMU's TCG with emulated AMD virtualisation where not."""

import os
import subprocess
from pathlib import Path

from . import cache

CHOICES = ("auto", "kvm", "tcg", "icount")


def arguments(accel):
    """QEMU's arguments for an accelerator."""
    return {
        "kvm": ["-accel", "kvm", "-cpu", "host"],
        "tcg": ["-accel", "tcg,thread=multi", "-cpu", "EPYC"],
        # 1 ns of the box's time per instruction, whatever else the machine does. Does not boot with two CPUs.
        "icount": ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-cpu", "EPYC"],
    }[accel]


def choose():
    """What `auto` means on this machine."""
    return "kvm" if kvm_works() else "tcg"


def kvm_works():
    """Whether /dev/kvm runs ordinary guests and lets them have a /dev/kvm too; opening it proves neither.

    The tree's own `krun-vmm check` answers the first. Without it the answer is no: TCG is slower and always works.
    """
    nested = any(
        file.read_text(encoding="utf-8").strip() in ("1", "Y")
        for file in Path("/sys/module").glob("kvm_*/parameters/nested")
    )
    if not nested or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    checker = cache.target_directory() / "release/krun-vmm"
    try:
        done = subprocess.run([checker, "check"], check=False, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return any(line.startswith("ok") and "runs guests" in line for line in done.stdout.splitlines())
