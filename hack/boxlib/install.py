"""Puts the tree's binaries into a running box."""

import io
import os
import subprocess
import tarfile

from . import cache, remote
from .errors import BoxError

# The cargo profile whose binaries a box gets; the Makefile has the same default.
PROFILE = os.environ.get("PROFILE", "release")

# Where cargo leaves each binary, below its target directory, and where the box wants it.
BINARIES = {
    f"{PROFILE}/containerd-shim-krun-v2": "usr/local/bin/containerd-shim-krun-v2",
    f"{PROFILE}/containerd-shim-krunfp-v2": "usr/local/bin/containerd-shim-krunfp-v2",
    f"{PROFILE}/krun-vmm": "usr/local/bin/krun-vmm",
    f"{PROFILE}/krunctl": "usr/local/bin/krunctl",
    f"{PROFILE}/krunctlfp": "usr/local/bin/krunctlfp",
    f"{PROFILE}/krun-scenarios": "usr/local/bin/krun-scenarios",
    f"{PROFILE}/krun-hostile-vmm": "usr/local/libexec/krun/krun-hostile-vmm",
    f"x86_64-unknown-linux-gnu/{PROFILE}/guest-init": "usr/local/libexec/krun/guest-init",
    f"x86_64-unknown-linux-gnu/{PROFILE}/krun-runtimetest": "usr/local/libexec/krun/krun-runtimetest",
    f"x86_64-unknown-linux-gnu/{PROFILE}/krun-hostile-init": "usr/local/libexec/krun/krun-hostile-init",
    # Built as `make check` does.
    **{f"debug/examples/{source.stem}": f"usr/local/libexec/krun/examples/{source.stem}"
       for source in (cache.HACK.parent / "vmm/launcher/examples").glob("*.rs")},
}


def build():
    """Builds the tree."""
    done = subprocess.run(["make", "--no-print-directory", "-C", cache.HACK.parent, "build"], check=False)
    if done.returncode != 0:
        raise BoxError("`make build` failed; the reason stands above. `hack/box up --no-build` takes what there is")


def install(box):
    """Copies the binaries that exist into the box, replacing (never overwriting) what runs there."""
    target = cache.target_directory()
    there = {source: name for source, name in BINARIES.items() if (target / source).exists()}
    for source in BINARIES.keys() - there.keys():
        print(f"box: not installed, because it is not built: {target / source}")
    copy(box, {target / source: name for source, name in there.items()})


def copy(box, files):
    """Copies executables into a running box: each path here, and its path there without the leading slash."""
    if not files:
        return
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for source, name in files.items():
            entry = tar.gettarinfo(source, name)
            entry.uid = entry.gid = 0
            entry.mode = 0o755
            with open(source, "rb") as file:
                tar.addfile(entry, file)
    command = remote.exec_command(box, ["tar", "-x", "-C", "/"], tty=False)
    done = subprocess.run(command, cwd=box.folder, check=False, input=data.getvalue())
    if done.returncode != 0:
        raise BoxError(f"installing binaries into box {box.name} failed with status {done.returncode}")
