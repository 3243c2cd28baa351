"""Which accelerator a box gets: real KVM where it works, QEMU's TCG with emulated AMD virtualisation where not."""

import os
import subprocess
from pathlib import Path

from . import emulator

CHOICES = ("auto", "kvm", "tcg", "icount")
PROBE_PATIENCE = 20  # seconds; real KVM needs one


def arguments(accel):
    """QEMU's arguments for an accelerator."""
    return {
        "kvm": ["-accel", "kvm", "-cpu", "host"],
        "tcg": ["-accel", "tcg,thread=multi", "-cpu", "EPYC"],
        # 1 ns of the box's time per instruction, whatever else the machine does. Does not boot with two CPUs.
        "icount": ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-cpu", "EPYC"],
    }[accel]


def choose(base):
    """What `auto` means on this machine: kvm or tcg."""
    return "kvm" if kvm_works(base) else "tcg"


def kvm_works(base):
    """Whether /dev/kvm runs the box's kernel and offers it virtualisation in turn; opening it proves neither.

    Some /dev/kvm can be opened and then cannot run an ordinary guest, so the box's kernel is booted as far as its
    initramfs. Where the module cannot nest at all the answer comes at once.
    """
    nested = any(
        file.read_text(encoding="utf-8").strip() in ("1", "Y")
        for file in Path("/sys/module").glob("kvm_*/parameters/nested")
    )
    return nested and os.access("/dev/kvm", os.R_OK | os.W_OK) and _boots(base, "kvm")


def _boots(base, accel):
    command = [
        *emulator.command(), *arguments(accel), "-M", "q35", "-m", "256M", "-nodefaults", "-display", "none",
        "-no-reboot", "-serial", "stdio", "-kernel", base / "vmlinuz", "-initrd", base / "initrd",
        "-append", "console=ttyS0 quiet panic=-1 box.probe",
    ]
    try:
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=PROBE_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"box: probed" in done.stdout
