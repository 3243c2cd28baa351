"""The containerds that a box can have: Debian's, and one that is newer, built from the release that hack/containerd
pins, once, into the cache."""

import shutil

from . import cache, golang

# Which Debian suite has which.
SUITES = {"1.6": "bookworm", "1.7": "trixie", "2.1": "sid"}
MODULE, PINNED = cache.HACK / "containerd", "2.3"
VERSIONS = (*SUITES, PINNED)
DEFAULT = "2.1"
NAMES = ("containerd", "containerd-shim-runc-v2", "ctr")
PACKAGES = [f"github.com/containerd/containerd/v2/cmd/{name}" for name in NAMES]


def pinned():
    """The directory with the programs of the pinned one, built if need be."""
    key = cache.recipe(MODULE, PACKAGES, cache.HACK / "boxlib/golang.py")
    return cache.stage("containerd", key, _build)


def add(apt, tree):
    """Puts all of them into the box's tree, each where `use-containerd` looks for it."""
    for version, suite in SUITES.items():
        unpacked = apt.folder / f"containerd-{version}"
        apt.extract("containerd", suite, unpacked)
        folder(tree, version).parent.mkdir(parents=True)
        shutil.move(unpacked / "usr/bin", folder(tree, version))
    shutil.copytree(pinned(), folder(tree, PINNED))


def folder(tree, version):
    """Where the programs of one of them lie."""
    return tree / f"opt/containerd-{version}/bin"


def _build(scratch):
    print(f"box: building containerd {PINNED}; this happens once and takes minutes", flush=True)
    log = cache.directory() / "containerd.log"
    log.write_bytes(b"")
    golang.build(MODULE, ["build"], PACKAGES, scratch, log)
