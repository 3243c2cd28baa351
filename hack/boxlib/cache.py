"""The cache outside the clone: things built once, keyed by what they were built from, and the locks around them."""

import contextlib
import fcntl
import hashlib
import os
import shutil
from pathlib import Path

HACK = Path(__file__).resolve().parent.parent


def directory():
    """${XDG_CACHE_HOME:-$HOME/.cache}/krun-shim, made if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "krun-shim"
    path.mkdir(parents=True, exist_ok=True)
    return path


def target_directory():
    """Where cargo puts the tree's binaries; the Makefile says the same."""
    return Path(os.environ.get("CARGO_TARGET_DIR") or directory() / "target")


@contextlib.contextmanager
def locked(name):
    """Holds the lock of that name against every other process of this user."""
    folder = directory() / "locks"
    folder.mkdir(exist_ok=True)
    with open(folder / name, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def recipe(*parts):
    """A key over recipe parts: a Path counts by the contents of the file or folder, anything else by its repr."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            files = sorted(path for path in part.rglob("*") if path.is_file()) if part.is_dir() else [part]
            for file in files:
                digest.update(f"{file.relative_to(HACK)} {file.stat().st_mode:o}\0".encode())
                digest.update(file.read_bytes())
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:12]


def stage(name, key, build):
    """The directory `name-key` of the cache, built by `build(empty directory)` unless it is there.

    It appears by a rename, so it is either whole or absent, and older keys of the same name are removed after it.
    """
    path = directory() / f"{name}-{key}"
    if path.is_dir():
        return path
    with locked(f"stage-{name}"):
        if path.is_dir():
            return path
        scratch = directory() / f"{name}.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            build(scratch)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        for stale in directory().glob(f"{name}-????????????"):
            shutil.rmtree(stale)
        scratch.rename(path)
    return path
