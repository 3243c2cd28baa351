"""Debian's Docker: the daemon, its client and their helpers, which use the box's containerd and runc."""

import shutil

from . import cache, debian, root

PROGRAMS = ("usr/sbin/dockerd", "usr/sbin/docker-proxy", "usr/bin/docker")
# dockerd calls it so, and Debian's package has a link.
INIT = "usr/bin/tini-static", "usr/bin/docker-init"


def docker():
    """The files of Docker, with their places in a box."""
    folder = cache.stage("tool-docker", cache.recipe(cache.HACK / "boxlib/docker.py", root.PACKAGES), _fetch)
    return {folder / name: name for name in (*PROGRAMS, INIT[1])}


def _fetch(scratch):
    print("box: fetching Debian's docker.io; this happens once", flush=True)
    log = cache.directory() / "tool-docker.log"
    log.write_bytes(b"")
    work = scratch / "work"
    work.mkdir()
    tree = work / "tree"
    debian.Apt(work / "apt", log).extract_with_dependencies(
        ["docker.io", "docker-cli"], root.box_tree() / "var/lib/dpkg/status", tree)
    for source, name in (*zip(PROGRAMS, PROGRAMS), INIT):
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / source, scratch / name)
    shutil.rmtree(work)
