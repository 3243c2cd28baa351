"""Go programs out of a pinned go.mod; the Go that builds them is the machine's own, or Debian's."""

import os
import re
import shutil

from . import cache, debian
from .errors import BoxError, output, run

# The first Go that fetches a newer one by itself where a go.mod asks for it.
OLDEST_GO = (1, 21)
# Where a machine without it gets Go from.
GO_SUITE, GO_PACKAGES = "trixie", ("golang-1.24-go", "golang-1.24-src")


def build(module, how, packages, target, log, variables=()):
    """Builds packages of the module in that folder, statically: `how` is ["build"] or ["test", "-c"], `target` the file
    or the folder for them, `variables` what the linker sets ("package.name=value")."""
    go, environment = _go()
    environment |= {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "auto"}
    linker = " ".join(["-s", "-w", *(f"-X {variable}" for variable in variables)])
    run(go, *how, "-trimpath", f"-ldflags={linker}", "-o", target, *packages, cwd=module, log=log,
        env={**os.environ, **environment})


def _go():
    """A `go` that can build them, and what its environment needs: the machine's own, else Debian's."""
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
