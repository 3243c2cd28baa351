"""The images of the node: what the scenarios run, the sandbox's, and the installer's, made of the tree's binaries as
deploy/installer/Dockerfile would make it.

They are small, and not those that the box has already: an emulated box needs minutes to unpack those for Kubernetes.
"""

import shutil
import tempfile
from pathlib import Path

from boxlib import cache, debian, oci, remote, usr
from boxlib.errors import output, run

BUSYBOX, NGINX, PAUSE = "localhost/busybox:1", "localhost/nginx-small:1", "localhost/pause:1"
# What deploy/kubernetes/kustomization.yaml names.
INSTALLER = "localhost/krun-installer:1"
# containerd's namespace for Kubernetes.
NAMESPACE = "k8s.io"
DEPLOY = cache.HACK.parent / "deploy"
LIBKRUNFW = "libkrunfw5"
# Which of Debian's packages, and all that they need, each image has; those of the installer stand for its Dockerfile's.
PACKAGES = {"busybox": ("busybox-static",), "nginx": ("busybox-static", "nginx"), "tools": ("busybox-static", "curl")}
LEFT_OUT = tuple(f"usr/share/{folder}/" for folder in ("doc", "info", "locale", "man", "perl"))


def load(node):
    """Imports all of them into the node's containerd."""
    with tempfile.TemporaryDirectory() as folder:
        archive = _archive(Path(folder))
        remote.push(node.box, archive, "/run/images.tar")
    node.run("ctr", "-n", NAMESPACE, "images", "import", "/run/images.tar")
    node.run("rm", "/run/images.tar")


def _archive(folder):
    base = _base()
    layers = {name: oci.layer(base / name, folder / f"{name}.layer", LEFT_OUT) for name in PACKAGES}
    own = oci.layer(_installer(base, folder), folder / "installer.layer")
    return oci.archive([
        oci.Image(BUSYBOX, [layers["busybox"]], ["sh"]),
        oci.Image(PAUSE, [layers["busybox"]], ["sleep", "infinity"]),
        oci.Image(NGINX, [layers["nginx"]], ["nginx", "-g", "daemon off;"]),
        oci.Image(INSTALLER, [layers["tools"], own], ["/installer/install.sh", "stay"]),
    ], folder / "images.tar")


def _installer(base, folder):
    """The Dockerfile's own files."""
    tree = folder / "installer"
    payload, own = tree / "krun", tree / "installer"
    run(DEPLOY / "package/layout", payload, "/usr/local", "programs")
    library, licence = "usr/lib/x86_64-linux-gnu/libkrunfw.so.5", f"usr/share/doc/{LIBKRUNFW}/copyright"
    for source, name in ((library, "lib/libkrunfw.so.5"), (licence, "share/doc/containerd-shim-krun/libkrunfw")):
        target = payload / "usr/local" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(base / "libkrunfw" / source, target)
    shutil.copytree(DEPLOY / "containerd", own / "containerd")
    for script in ("install.sh", "distribution.sh"):
        shutil.copy(DEPLOY / "installer" / script, own)
    return tree


def _base():
    """Trees that no change of ours changes: an image's each, and libkrunfw."""
    key = cache.recipe(PACKAGES, LIBKRUNFW, cache.HACK / "boxlib/debian.py", cache.HACK / "boxlib/usr.py", Path(__file__).resolve())
    return cache.stage("kubernetes-images", key, _build_base)


def _build_base(scratch):
    log = cache.directory() / "kubernetes-images.log"
    log.write_bytes(b"")
    apt = debian.Apt(scratch / "apt", log)
    for name, packages in PACKAGES.items():
        _build_tree(apt, packages, scratch / name)
    # What the package's script would have made.
    (scratch / "nginx/etc/nginx/sites-enabled/default").symlink_to("/etc/nginx/sites-available/default")
    apt.extract(LIBKRUNFW, "sid", scratch / "libkrunfw")
    shutil.rmtree(apt.folder)


def _build_tree(apt, packages, tree):
    """The packages and all that they need, unpacked; busybox's programs where there are no others."""
    usr.merge(tree)
    apt.extract_with_dependencies(packages, apt.folder / "status", tree)
    for folder in ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var"):
        (tree / folder).mkdir(exist_ok=True)
    (tree / "tmp").chmod(0o1777)
    busybox = tree / "usr/bin/busybox"
    for applet in output(busybox, "--list").split():
        if not any((tree / "usr" / folder / applet).exists() for folder in ("bin", "sbin")):
            (tree / "usr/bin" / applet).symlink_to("busybox")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/false\n", encoding="utf-8")
    (tree / "etc/group").write_text("root:x:0:\nwww-data:x:33:\n", encoding="utf-8")
