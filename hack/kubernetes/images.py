"""The images of the node: those that the box has, the sandbox's, and the installer's, made of the tree's binaries as
deploy/installer/Dockerfile would make it."""

import shutil
import subprocess
from pathlib import Path

from boxlib import cache, debian, install, oci, remote
from boxlib.errors import BoxError

BUSYBOX, NGINX = "localhost/busybox:1", "localhost/nginx:1"
PAUSE = "localhost/pause:1"
INSTALLER = "localhost/krun-installer:1"
# containerd's namespace for Kubernetes.
NAMESPACE = "k8s.io"
DEPLOY = cache.HACK.parent / "deploy"
# What the Dockerfile's base and its `apt-get install` bring.
TOOLS = ("busybox-static", "ca-certificates", "curl")
LIBKRUNFW = "libkrunfw5"
LICENSES = f"usr/share/doc/{LIBKRUNFW}/copyright"


def load(node):
    """Imports all of them into the node's containerd."""
    export = f"ctr images export - {BUSYBOX} {NGINX} | ctr -n {NAMESPACE} images import -"
    node.run("bash", "-o", "pipefail", "-c", export)
    archive = node.box.folder / "images.tar"
    folder = node.box.folder / "images"
    folder.mkdir()
    pause, tools = _bases()
    oci.archive([
        oci.Image(PAUSE, [oci.layer(pause, folder / "pause.layer")], ["sleep", "infinity"]),
        oci.Image(INSTALLER, [oci.layer(tools, folder / "tools.layer"),
                              oci.layer(_installer(folder), folder / "installer.layer")], ["/installer/install.sh"]),
    ], archive)
    remote.push(node.box, archive, "/run/images.tar")
    node.run("ctr", "-n", NAMESPACE, "images", "import", "/run/images.tar")
    node.run("rm", "/run/images.tar")
    shutil.rmtree(folder)
    archive.unlink()


def _installer(folder):
    """What is the installer's own: see deploy/installer/Dockerfile."""
    tree = folder / "installer"
    own = tree / "installer"
    (own / "bin").mkdir(parents=True)
    for source in install.BINARIES:
        if not source.endswith("krun-scenarios"):
            shutil.copy(cache.target_directory() / source, own / "bin")
    shutil.copytree(DEPLOY / "containerd", own / "containerd")
    shutil.copy(DEPLOY / "installer/install.sh", own)
    _, tools = _bases()
    (own / "lib").mkdir()
    shutil.copy(next(tools.glob("usr/lib/x86_64-linux-gnu/libkrunfw.so.5.*")), own / "lib/libkrunfw.so.5")
    (own / "licenses").mkdir()
    shutil.copy(tools / LICENSES, own / "licenses/libkrunfw")
    shutil.copy(cache.HACK.parent / "LICENSE", own / "licenses/containerd-shim-krun")
    return tree
