"""QEMU, of Debian sid whatever release this machine is: 7.2 locks up with nested SVM far more often than 11.1.

It is unpacked beside the libraries that it needs, and run by its own loader, so nothing of this machine's changes.
"""

import re
import shutil
from pathlib import Path

from . import cache, debian, usr

PACKAGE = "qemu-system-x86"
LOADER = "lib64/ld-linux-x86-64.so.2"
BINARY = "usr/bin/qemu-system-x86_64"
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
FIRMWARE = ("usr/share/qemu", "usr/share/seabios")
# Where VMRUN injects an interrupt it notes the vector as an exception to come, delivers it, and leaves the note: when the
# processor is called away before the guest's next exit, the guest gets the interrupt again, whether it allows any or not.
# This is `cs->exception_index = vector` between its neighbours, and what is in its place: a nop as long.
# Source: helper_vmrun, case SVM_EVTINJ_TYPE_INTR, target/i386/tcg/system/svm_helper.c; Debian's 11.1.3.
NOTE = re.compile(rb"(\x41\x0f\xb6\xf4\x44\x89\xab..\0\0)\x89\xb3..\xff\xff(\xc7\x83..\0\0\0\0\0\0)", re.DOTALL)
WITHOUT = b"\\1\x66\x0f\x1f\x44\0\0\\2"


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
    _mend(tree / BINARY)


def _mend(binary):
    """Takes the note away; of another version, where it is not found, everything else still works."""
    mended, count = NOTE.subn(WITHOUT, binary.read_bytes())
    if count == 1:
        binary.write_bytes(mended)
    else:
        print(f"box: this QEMU is not mended (docs/testing.md), {count} places look like it: some guests will hang")
