"""What a box needs so that critest can run in it: a CRI that knows krun, a pod network, and a registry with images of
the names that critest pulls. The images hold Debian's programs; nothing comes from the registries of those names."""

import os
import shutil
import subprocess
from pathlib import Path

from . import cache, debian, images, oci, remote, root
from .errors import BoxError, output, run

FILES = cache.HACK / "critest"
# Those that understand the configuration there.
CONTAINERDS = ("2.1", "2.3")
DROP_IN = cache.HACK.parent / "deploy/containerd/krun-2.toml"
# Where `setup` looks for all of this in the box.
THERE = "/usr/local/lib/critest"

PUBLISHED = "registry.k8s.io"
E2E = f"{PUBLISHED}/e2e-test-images"
STAGING = "gcr.io/k8s-staging-cri-tools"

# This busybox, unlike the box's, runs an applet by its file, and unlike sid's says no line number when it cannot: the
# MaskedPaths spec compares.
BUSYBOX, BUSYBOX_SUITE = "bin/busybox", "bookworm"
# What else critest runs in its images, by where it lies in Debian.
PROGRAMS = ("usr/bin/ipcs", "usr/bin/pgrep", "usr/sbin/nginx")
# The program whose set-user-ID bit the NoNewPrivs specs try.
SETUID = "usr/bin/setuid-id"
SAY_EFFECTIVE_UID = f'echo "Effective uid: $(/{SETUID} -u)"'
NGINX_CONF = """user nobody nogroup;
pid /var/run/nginx.pid;
error_log stderr;
events {{}}
http {{ server {{ listen {port}; root /var/www; access_log off; }} }}
"""
# The names, numbers and memberships that the specs look for.
PASSWD = """root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
default-user:x:1000:1000::/:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
"""
GROUP = """root:x:0:
tty:x:5:
www-data:x:33:
default-user:x:1000:
group-defined-in-image:x:50000:default-user
nogroup:x:65534:
"""


def put(box):
    """Copies it all into a running box and has `setup` put it in place."""
    containerd = box.state()["options"]["containerd"]
    if containerd not in CONTAINERDS:
        raise BoxError(f"--tools critest with --containerd {containerd}: the configuration is for {', '.join(CONTAINERDS)}")
    layout = _images()
    _inside(box, "mkdir", "-p", THERE)
    for source in (*sorted(FILES.iterdir()), DROP_IN, layout):
        remote.push(box, source, f"{THERE}/{source.name}")
    _inside(box, f"{THERE}/setup")


def _inside(box, *command):
    run(*remote.exec_command(box, command, tty=False), cwd=box.folder, stdin=subprocess.DEVNULL)


def _images():
    """A directory with all images in the OCI's layout, built if need be."""
    sources = [cache.HACK / "boxlib" / f"{name}.py" for name in ("critest", "debian", "images", "oci", "root")]
    return cache.stage("critest-images", cache.recipe(*sources), _build) / "layout"


def _build(scratch):
    work = scratch / "work"
    work.mkdir()
    tree = _tree(work)
    layers = {}

    def marked(name):
        """The common layer, and one that makes an image of that name differ from all others."""
        if name not in layers:
            mark = work / f"mark-{name}"
            images.write(mark / "etc/critest-image", f"{name}\n")
            layers[name] = oci.layer(mark, work / f"{name}.layer")
        return [common, layers[name]]

    common = oci.layer(tree, work / "common.layer")
    nginx = ["nginx", "-g", "daemon off;"]
    archive = oci.archive([
        # Not `sleep`, for which a spec looks in vain.
        oci.Image(f"{PUBLISHED}/pause:3.10", [common], ["tail", "-f", "/dev/null"]),
        oci.Image(f"{E2E}/busybox:1.29-2", [common], ["sh"]),
        oci.Image(f"{E2E}/nginx:1.14-2", [common], nginx),
        oci.Image(f"{STAGING}/hostnet-nginx-amd64:latest", [common], ["nginx", "-c", "/etc/nginx/hostnet.conf", *nginx[1:]]),
        oci.Image(f"{E2E}/httpd:2.4.39-4", [common], ["sh", "-c", "echo httpd; exec httpd -f -v -h /var/www"]),
        oci.Image(f"{E2E}/nonewprivs:1.3", [common], ["sh", "-c", SAY_EFFECTIVE_UID]),
        *(oci.Image(f"{STAGING}/test-image-{name}:latest", marked(name), ["sh"]) for name in ("1", "2", "3", "latest")),
        *(oci.Image(f"{STAGING}/test-image-tag:{tag}", marked(tag), ["sh"]) for tag in ("test", "all")),
        *(oci.Image(f"{STAGING}/test-image-tags:{tag}", marked("same"), ["sh"]) for tag in ("1", "2", "3")),
        *(oci.Image(f"{STAGING}/test-image-{name}:latest", [common], ["sh"], user) for name, user in (
            ("user-uid", "1002"), ("user-username", "www-data"), ("user-uid-group", "1003:1004"),
            ("user-username-group", "www-data:1004"), ("predefined-group", "1000"),
        )),
    ], work / "images.tar")
    (scratch / "layout").mkdir()
    run("tar", "-x", "-f", archive, "-C", scratch / "layout")
    shutil.rmtree(work)


def _tree(work):
    """The one root directory of all images: busybox, what it lacks, nginx."""
    log = cache.directory() / "critest-images.log"
    log.write_bytes(b"")
    tree = images.busybox_tree(root.box_tree(), work)
    images.write(tree / "etc/passwd", PASSWD)
    images.write(tree / "etc/group", GROUP)
    sources = [root.image_tree(), work / "packages"]
    status = sources[0] / "var/lib/dpkg/status"
    apt = debian.Apt(work / "apt", log)
    apt.extract_with_dependencies(["nginx"], status, sources[1])
    apt.extract("busybox", BUSYBOX_SUITE, sources[1])
    for program in (BUSYBOX, *PROGRAMS):
        _add_program(tree, program, sources)
    # Hard links, so that a path can be masked without the others.
    for applet in (tree / "bin").iterdir():
        if applet != tree / BUSYBOX:
            applet.unlink()
            os.link(tree / BUSYBOX, applet)
    _add_program(tree, "usr/bin/id", sources)
    (tree / "usr/bin/id").rename(tree / SETUID)
    (tree / SETUID).chmod(0o4755)
    for name, port in (("nginx", 80), ("hostnet", 12003)):
        images.write(tree / f"etc/nginx/{name}.conf", NGINX_CONF.format(port=port))
    images.write(tree / "var/www/index.html", "the main page\n")
    for folder in ("var/lib/nginx", "var/log/nginx", "var/run"):
        (tree / folder).mkdir(parents=True)
    return tree


def _add_program(tree, program, sources):
    """Copies a program and the libraries that it loads out of the first of the trees that has each."""
    origin = next((source for source in sources if (source / program).exists()), None)
    if origin is None:
        raise BoxError(f"none of Debian's packages for critest's images has /{program}; looked in {sources}")
    folders = [source / "usr/lib/x86_64-linux-gnu" for source in sources]
    loader = sources[0] / "usr/lib64/ld-linux-x86-64.so.2"
    listed = output(loader, "--library-path", ":".join(map(str, folders)), "--list", origin / program)
    for line in listed.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if arrow:
            _copy(Path(rest.split(" (")[0]), tree / "usr/lib/x86_64-linux-gnu" / Path(name).name)
    _copy(loader, tree / "lib64" / loader.name)
    _copy(origin / program, tree / program)


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
