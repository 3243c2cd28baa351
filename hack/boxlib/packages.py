"""Programs of Debian's packages that not every box has."""

import shutil

from . import cache, debian, root

# Which packages, and which of their programs: Docker's use the box's containerd and runc.
PACKAGES = {
    "docker": (("docker.io", "docker-cli", "docker-compose"), (
        "usr/sbin/dockerd", "usr/sbin/docker-proxy", "usr/bin/docker", "usr/bin/tini-static",
        "usr/libexec/docker/cli-plugins/docker-compose")),
    "git": (("git",), ("usr/bin/git",)),
    "prometheus": (("prometheus",), ("usr/bin/prometheus", "usr/bin/promtool")),
}
# Names that a program has in a box, where they are others: a link of Debian's package.
NAMES = {"usr/bin/tini-static": "usr/bin/docker-init"}


def programs(name):
    """The programs of that tool, with their places in a box."""
    key = cache.recipe(PACKAGES[name], cache.HACK / "boxlib/packages.py", root.PACKAGES)
    folder = cache.stage(f"tool-{name}", key, lambda scratch: _fetch(name, scratch))
    return {folder / program: NAMES.get(program, program) for program in PACKAGES[name][1]}


def _fetch(name, scratch):
    print(f"box: fetching Debian's {name}; this happens once", flush=True)
    log = cache.directory() / f"tool-{name}.log"
    log.write_bytes(b"")
    work = scratch / "work"
    work.mkdir()
    packages, wanted = PACKAGES[name]
    debian.Apt(work / "apt", log).extract_with_dependencies(
        packages, root.box_tree() / "var/lib/dpkg/status", work / "tree")
    for program in wanted:
        (scratch / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(work / "tree" / program, scratch / program)
    shutil.rmtree(work)
