"""The box's base: its root disk, kernel and keys, built once into the cache and shared by all boxes."""

import shutil
import threading

from . import cache, debian, images, kernel, remote
from .errors import BoxError, run

PACKAGES = (
    "busybox-static", "ca-certificates", "containernetworking-plugins", "dbus", "iproute2", "iptables", "kmod",
    "libkrunfw5", "openssh-server", "procps", "python3", "redis-tools", "runc", "socat", "strace", "systemd",
)
# Which Debian suite has which containerd.
CONTAINERDS = {"1.6": "bookworm", "1.7": "trixie", "2.1": "sid"}
DEFAULT_CONTAINERD = "2.1"
DISK_SIZE = "6G"  # sparse
FILES = cache.HACK / "box-root"
BAKE = cache.HACK / "bake"


def base():
    """The directory with disk.img, vmlinuz, initrd, the ssh keys; built if need be."""
    sources = [cache.HACK / "boxlib" / f"{name}.py" for name in ("debian", "images", "kernel", "oci", "root")]
    key = cache.recipe(*sources, kernel.INIT, FILES, BAKE)
    return cache.stage("base", key, _build)


def _build(scratch):
    print("box: building the base disk; this happens once and takes a few minutes", flush=True)
    work = scratch / "work"
    work.mkdir()
    log = cache.directory() / "base.log"
    log.write_bytes(b"")
    box, image = _both(box_tree, image_tree)

    tree = work / "root"
    run("cp", "-a", "--reflink=auto", box, tree, log=log)
    apt = debian.Apt(work / "apt", log)
    _add_containerds(apt, tree)
    vmlinuz, version = kernel.unpack(apt, tree)
    shutil.move(vmlinuz, scratch / "vmlinuz")
    kernel.initramfs(tree, version, scratch / "initrd", log)
    run("cp", "-rT", FILES, tree, log=log)
    _add_keys(scratch, tree, log)
    # CNI's customary place.
    (tree / "opt/cni").mkdir(parents=True)
    (tree / "opt/cni/bin").symlink_to("/usr/lib/cni")
    (tree / "etc/resolv.conf").write_text("", encoding="utf-8")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n", encoding="utf-8")

    archive = images.build(apt, box, image, work)
    for containerd in CONTAINERDS:
        run(BAKE, tree / f"opt/containerd-{containerd}/bin", tree / f"var/lib/containerd-{containerd}", archive, log=log)

    # No journal (a box is never repaired), no checksums (they want a module before there is a disk).
    run("mke2fs", "-q", "-t", "ext4", "-O", "^metadata_csum,^has_journal,^64bit", "-m", "0",
        "-d", tree, scratch / "disk.img", DISK_SIZE, log=log)
    shutil.rmtree(work)


def box_tree():
    """The Debian that a box runs, without what the base adds to it."""
    return _tree("tree-box", PACKAGES)


def image_tree():
    """The Debian that programs of images come from."""
    return _tree("tree-image", images.BASE_PACKAGES)


def _tree(name, packages):
    key = cache.recipe(packages)
    log = cache.directory() / f"{name}.log"
    return cache.stage(name, key, lambda scratch: debian.debootstrap(scratch / "root", packages, log)) / "root"


def _both(first, second):
    """Runs two functions at the same time and returns what both return."""
    results = [None, None]
    def call(number, function):
        try:
            results[number] = function()
        except BoxError as error:
            results[number] = error
    threads = [threading.Thread(target=call, args=pair) for pair in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BoxError):
            raise result
    return results


def _add_containerds(apt, tree):
    for version, suite in CONTAINERDS.items():
        unpacked = apt.folder / f"containerd-{version}"
        apt.extract("containerd", suite, unpacked)
        target = tree / f"opt/containerd-{version}"
        target.mkdir(parents=True)
        shutil.move(unpacked / "usr/bin", target / "bin")


def _add_keys(scratch, tree, log):
    """One key pair for the user and one for the host, so that ssh is strict and never asks."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hack/box", "-f", scratch / remote.KEY, log=log)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "box", "-f", tree / "etc/ssh/box_host_key", log=log)
    shutil.copy(scratch / f"{remote.KEY}.pub", tree / "etc/ssh/box_authorized_keys")
    host_key = (tree / "etc/ssh/box_host_key.pub").read_text(encoding="utf-8")
    (scratch / remote.KNOWN_HOSTS).write_text(f"box {host_key}", encoding="utf-8")
