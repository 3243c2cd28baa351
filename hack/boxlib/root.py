"""The box's base: its root disk, kernel and keys, built once into the cache and shared by all boxes."""

import shutil
import threading

from . import cache, containerds, debian, images, kernel, remote
from .errors import BoxError, run

PACKAGES = (
    "apparmor", "busybox-static", "ca-certificates", "containernetworking-plugins", "dbus", "dmsetup", "e2fsprogs",
    "erofs-utils", "iproute2", "iptables", "kmod", "libkrunfw5", "nftables", "openssh-server", "procps", "python3",
    "redis-tools", "runc", "socat", "strace", "systemd",
)
DISK_SIZE = "6G"  # sparse
FILES = cache.HACK / "box-root"
BAKE = cache.HACK / "bake"


def base():
    """The directory with disk.img, vmlinuz, initrd, the ssh keys; built if need be."""
    names = ("containerds", "debian", "golang", "images", "kernel", "oci", "root")
    sources = [cache.HACK / "boxlib" / f"{name}.py" for name in names]
    key = cache.recipe(*sources, containerds.MODULE, kernel.INIT, FILES, BAKE)
    return cache.stage("base", key, _build)


def _build(scratch):
    print("box: building the base disk; this happens once and takes a few minutes", flush=True)
    work = scratch / "work"
    work.mkdir()
    log = cache.directory() / "base.log"
    log.write_bytes(b"")
    box, image, _ = _together(box_tree, image_tree, containerds.pinned)

    tree = work / "root"
    run("cp", "-a", "--reflink=auto", box, tree, log=log)
    apt = debian.Apt(work / "apt", log)
    containerds.add(apt, tree)
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
    for one in containerds.VERSIONS:
        run(BAKE, containerds.folder(tree, one), tree / f"var/lib/containerd-{one}", archive, log=log)

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


def _together(*functions):
    """Runs functions at the same time and returns what they return."""
    results = [None] * len(functions)
    def call(number, function):
        try:
            results[number] = function()
        except BoxError as error:
            results[number] = error
    threads = [threading.Thread(target=call, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BoxError):
            raise result
    return results


def _add_keys(scratch, tree, log):
    """One key pair for the user and one for the host, so that ssh is strict and never asks."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hack/box", "-f", scratch / remote.KEY, log=log)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "box", "-f", tree / "etc/ssh/box_host_key", log=log)
    shutil.copy(scratch / f"{remote.KEY}.pub", tree / "etc/ssh/box_authorized_keys")
    host_key = (tree / "etc/ssh/box_host_key.pub").read_text(encoding="utf-8")
    (scratch / remote.KNOWN_HOSTS).write_text(f"box {host_key}", encoding="utf-8")
