"""What people use with containers: the clients nerdctl and crictl, Debian's Docker, git and Prometheus, and rollup, which watches the files that
it bundles. Made from the versions that hack/tools pins, but for Debian's, once, into the cache; a box has them only when asked for."""

from . import cache, golang, install, npm, packages

MODULE = cache.HACK / "tools"
PACKAGES = {
    "nerdctl": "github.com/containerd/nerdctl/v2/cmd/nerdctl",
    "crictl": "sigs.k8s.io/cri-tools/cmd/crictl",
    # A test binary: `go test -c` makes it.
    "critest": "sigs.k8s.io/cri-tools/cmd/critest",
}
NAMES = (*PACKAGES, *packages.PACKAGES, "rollup")


def put(box, names):
    """Installs the tools in a running box."""
    files = {}
    for name in names:
        files |= _files(name)
    install.copy(box, files)


def _files(name):
    if name == "rollup":
        return npm.rollup()
    if name in packages.PACKAGES:
        return packages.programs(name)
    return {build(name) / name: f"usr/local/bin/{name}"}


def build(name):
    """The directory that holds the tool, built if need be."""
    key = cache.recipe(MODULE, *(cache.HACK / "boxlib" / file for file in ("golang.py", "tools.py")))
    return cache.stage(f"tool-{name}", key, lambda scratch: _build(name, scratch))


def _build(name, scratch):
    print(f"box: building {name}; this happens once and takes minutes", flush=True)
    log = cache.directory() / f"tool-{name}.log"
    log.write_bytes(b"")
    how = ["test", "-c"] if name == "critest" else ["build"]
    golang.build(MODULE, how, [PACKAGES[name]], scratch / name, log)
