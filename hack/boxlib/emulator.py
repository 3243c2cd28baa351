"""QEMU, of Debian sid whatever release this machine is: 7.2 locks up with nested SVM far more often than 11.1.

It is unpacked beside the libraries that it needs, and run by its own loader, so nothing of this machine's changes.
"""

import shutil
from pathlib import Path

from . import cache, debian, usr

PACKAGE = "qemu-system-x86"
LOADER = "lib64/ld-linux-x86-64.so.2"
BINARY = "usr/bin/qemu-system-x86_64"
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
FIRMWARE = ("usr/share/qemu", "usr/share/seabios")


def command():
    """The words that run QEMU, unpacked first if need be; its arguments go after them."""
    tree = _tree()
    words = [tree / LOADER, "--library-path", ":".join(str(tree / folder) for folder in LIBRARIES), tree / BINARY]
    for folder in FIRMWARE:
        words += ["-L", tree / folder]
    return [str(word) for word in words]


def _tree():
    key = cache.recipe(PACKAGE, cache.HACK / "boxlib/debian.py", cache.HACK / "boxlib/usr.py", Path(__file__).resolve())
    return cache.stage("qemu", key, _build) / "root"


def _build(scratch):
    print("box: unpacking QEMU; this happens once", flush=True)
    log = cache.directory() / "qemu.log"
    log.write_bytes(b"")
    tree = scratch / "root"
    tree.mkdir()
    usr.merge(tree)
    apt = debian.Apt(scratch / "apt", log)
    apt.extract_with_dependencies((PACKAGE,), scratch / "apt/status", tree)
    shutil.rmtree(apt.folder)
