"""The box's kernel, Debian's own, and an initramfs that finds the box's disk and starts its init."""

import shutil

from . import cache
from .errors import run

SUITE = "bookworm"
# What must be there before the disk is; all else is loaded from the disk. nd_pmem is the disk of an icount box.
EARLY_MODULES = ("virtio_pci", "virtio_blk", "nfit", "nd_pmem")
INIT = cache.HACK / "box-init"


def unpack(apt, tree):
    """Puts vmlinuz's package (its modules too) into the box's tree and returns the kernel's version."""
    package = apt.dependency("linux-image-cloud-amd64", SUITE, r"linux-image-[\d.]+-\S+")
    scratch = apt.folder / "kernel"
    apt.extract(package, SUITE, scratch)
    version = package.removeprefix("linux-image-")
    shutil.copytree(scratch / "lib/modules" / version, tree / "usr/lib/modules" / version, symlinks=True)
    shutil.copy(scratch / "boot" / f"vmlinuz-{version}", apt.folder / "vmlinuz")
    run("chroot", tree, "depmod", version)
    return apt.folder / "vmlinuz", version


def initramfs(tree, version, target, log):
    """Writes the initramfs: busybox, the early modules in loading order, and hack/box-init."""
    scratch = target.with_suffix(".tree")
    (scratch / "modules").mkdir(parents=True)
    for folder in ("bin", "dev", "proc", "sys", "root"):
        (scratch / folder).mkdir()
    shutil.copy(tree / "usr/bin/busybox", scratch / "bin/busybox")
    shutil.copy(INIT, scratch / "init")
    modules = tree / "usr/lib/modules" / version
    for number, file in enumerate(_loading_order(modules)):
        shutil.copy(modules / file, scratch / "modules" / f"{number:02}-{file.rsplit('/', 1)[1]}")
    run("sh", "-c", f"find . | cpio --quiet -o -H newc > {target}", cwd=scratch, log=log)
    shutil.rmtree(scratch)


def _loading_order(modules):
    needs = {}
    for line in (modules / "modules.dep").read_text(encoding="utf-8").splitlines():
        file, _, dependencies = line.partition(":")
        needs[file] = dependencies.split()
    by_name = {file.rsplit("/", 1)[1].split(".")[0].replace("-", "_"): file for file in needs}
    order = []
    for name in EARLY_MODULES:
        file = by_name[name]
        # modules.dep lists what is needed last-to-load first.
        order += [module for module in [*reversed(needs[file]), file] if module not in order]
    return order
