"""The container images of the box: the real programs, out of Debian's packages, nothing pulled from anywhere."""

import shutil

from . import oci
from .errors import output

BASE_PACKAGES = ("bash", "coreutils", "iproute2", "procps", "python3", "stress-ng")
# What no test needs and what makes up two thirds of those packages: documentation, and the graphics drivers behind
# stress-ng's GPU stressor.
LEFT_OUT = (
    "usr/share/doc/", "usr/share/info/", "usr/share/locale/", "usr/share/man/",
    *(f"usr/lib/x86_64-linux-gnu/{library}" for library in ("libLLVM", "libgallium", "libz3")),
)


def build(apt, box_tree, image_tree, work):
    """Makes all images and returns the archive that holds them."""
    busybox = oci.Image("localhost/busybox:1", [oci.layer(busybox_tree(box_tree, work), work / "busybox.layer")], ["sh"])
    base = oci.layer(image_tree, work / "base.layer", LEFT_OUT)
    nginx, redis = _nginx(apt, image_tree, work), _redis(apt, image_tree, work)
    return oci.archive([
        busybox,
        oci.Image("localhost/debian:1", [base], ["bash"]),
        oci.Image("localhost/nginx:1", [base, oci.layer(nginx, work / "nginx.layer")],
                  ["nginx", "-g", "daemon off;"]),
        oci.Image("localhost/redis:1", [base, oci.layer(redis, work / "redis.layer")],
                  ["redis-server", "--bind", "*", "--protected-mode", "no", "--save", "", "--dir", "/tmp"]),
    ], work / "images.tar")


def busybox_tree(box_tree, work):
    """A root directory, below `work`, with the box's busybox and a link for each of its applets."""
    tree = work / "busybox"
    for folder in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "var"):
        (tree / folder).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    (tree / "root").chmod(0o700)
    shutil.copy(box_tree / "usr/bin/busybox", tree / "bin/busybox")
    for applet in output(tree / "bin/busybox", "--list").split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    write(tree / "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    write(tree / "etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n")
    return tree


# The packages of these two are unpacked without their scripts; what the scripts would have made is made here.

def _nginx(apt, image_tree, work):
    tree = work / "nginx"
    apt.extract_with_dependencies(["nginx"], image_tree / "var/lib/dpkg/status", tree)
    (tree / "etc/nginx/sites-enabled/default").symlink_to("/etc/nginx/sites-available/default")
    write(tree / "var/www/html/index.html", "nginx in a box\n")
    for log, stream in (("access.log", "stdout"), ("error.log", "stderr")):
        (tree / "var/log/nginx" / log).symlink_to(f"/dev/{stream}")
    return tree


def _redis(apt, image_tree, work):
    tree = work / "redis"
    apt.extract_with_dependencies(["redis-server"], image_tree / "var/lib/dpkg/status", tree)
    return tree


def write(path, text):
    """Writes a file, and makes its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
