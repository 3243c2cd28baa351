"""The clients that talk to a box's containerd as people do, nerdctl and crictl, built from the versions that hack/tools
pins, once, into the cache; a box has them only when asked for."""

import os
import re
import shutil
import subprocess

from . import cache, debian, install
from .errors import BoxError, output, run

MODULE = cache.HACK / "tools"
PACKAGES = {
    "nerdctl": "github.com/containerd/nerdctl/v2/cmd/nerdctl",
    "crictl": "sigs.k8s.io/cri-tools/cmd/crictl",
    # A test binary: `go test -c` makes it.
    "critest": "sigs.k8s.io/cri-tools/cmd/critest",
}
USUAL = ("nerdctl", "crictl")
# The first Go that fetches a newer one by itself where a go.mod asks for it.
OLDEST_GO = (1, 21)
# Where a machine without it gets Go from.
GO_SUITE, GO_PACKAGES = "trixie", ("golang-1.24-go", "golang-1.24-src")


def put(box, names=USUAL):
    """Installs the tools in a running box."""
    folders = {name: build(name) for name in names}
    install.copy(box, {folder / name: f"usr/local/bin/{name}" for name, folder in folders.items()})


def build(name):
    """The directory that holds the tool, built if need be."""
    key = cache.recipe(MODULE, cache.HACK / "boxlib" / "tools.py")
    return cache.stage(f"tool-{name}", key, lambda scratch: _build(name, scratch))


def _build(name, scratch):
    print(f"box: building {name}; this happens once and takes minutes", flush=True)
    log = cache.directory() / f"tool-{name}.log"
    log.write_bytes(b"")
    go, environment = _go()
    how = ["test", "-c"] if name == "critest" else ["build"]
    environment |= {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "auto"}
    run(go, *how, "-trimpath", "-ldflags=-s -w", "-o", scratch / name, PACKAGES[name], cwd=MODULE, log=log,
        env={**os.environ, **environment})


def _go():
    """A `go` that can build the tools, and what its environment needs: the machine's own, else Debian's."""
    own = shutil.which("go")
    if own and _version(own) >= OLDEST_GO:
        return own, {}
    tree = cache.stage("go", cache.recipe(GO_SUITE, GO_PACKAGES), _unpack_go)
    root = tree / "usr/lib" / GO_PACKAGES[0].removesuffix("-go").replace("golang", "go")
    return root / "bin/go", {"GOROOT": str(root)}


def _version(go):
    said = output(go, "env", "GOVERSION")
    match = re.match(r"go(\d+)\.(\d+)", said)
    if not match:
        raise BoxError(f"`{go} env GOVERSION` says {said.strip()!r}, which is no version of Go")
    return int(match[1]), int(match[2])


def _unpack_go(scratch):
    log = cache.directory() / "go.log"
    log.write_bytes(b"")
    apt = debian.Apt(scratch / "apt", log)
    for package in GO_PACKAGES:
        apt.extract(package, GO_SUITE, scratch)
    shutil.rmtree(scratch / "apt")
