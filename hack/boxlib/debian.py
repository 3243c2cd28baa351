"""Debian packages of any suite, without touching this machine's own apt: trees by debootstrap, files out of .debs."""

import os
import re

from .errors import BoxError, output, run

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = ("bookworm", "trixie", "sid")


def mirror():
    """The Debian mirror that this machine's apt uses."""
    targets = output("apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages")
    for line in targets.splitlines():
        origin, label, uri = line.split("|")
        if origin == label == "Debian":
            return uri.rstrip("/")
    raise BoxError("apt knows no Debian mirror here (`apt-get indextargets` names none of origin Debian); the box is built"
                   " on a Debian machine, after `apt-get update`")


def debootstrap(tree, packages, log):
    """A minimal Debian sid with those packages in the directory `tree`."""
    if os.geteuid() != 0:
        raise BoxError("building the box's disk needs root (debootstrap makes files of many owners): run this as root")
    run("debootstrap", "--variant=minbase", f"--keyring={KEYRING}", "--include=" + ",".join(packages),
        "sid", tree, mirror(), log=log)
    for junk in ("var/cache/apt/archives", "var/lib/apt/lists", "var/log"):
        for file in (tree / junk).rglob("*"):
            if file.is_file():
                file.unlink()


class Apt:
    """A private apt, below `folder`, that knows all SUITES and this machine's mirror."""

    def __init__(self, folder, log):
        self.folder, self.log = folder, log
        for made in ("lists/partial", "cache/archives/partial", "empty"):
            (folder / made).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(
            "".join(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n" for suite in SUITES), encoding="utf-8")
        (folder / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{folder}/sources.list";\n'
            f'Dir::Etc::sourceparts "{folder}/empty";\n'
            f'Dir::Etc::preferencesparts "{folder}/empty";\n'
            f'Dir::State::lists "{folder}/lists";\n'
            f'Dir::State::status "{folder}/status";\n'
            f'Dir::Cache "{folder}/cache";\n'
            'APT::Sandbox::User "root";\n'
            'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";\n'
            'Acquire::Languages "none";\n', encoding="utf-8")
        self._run("apt-get", "-q", "update")

    def _run(self, *command, **options):
        run(*command, log=self.log, env=self._environment(), **options)

    def _environment(self):
        return {**os.environ, "APT_CONFIG": str(self.folder / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}

    def extract(self, package, suite, tree):
        """Unpacks the files of one package of a suite into `tree`."""
        folder = self.folder / f"{package}-{suite}"
        folder.mkdir()
        self._run("apt-get", "-q", "download", f"{package}/{suite}", cwd=folder)
        self._unpack(folder, tree)

    def extract_with_dependencies(self, packages, status, tree):
        """Unpacks packages of sid and what they need beyond the dpkg status file of another tree."""
        folder = self.folder / ("with-" + "-".join(packages))
        (folder / "partial").mkdir(parents=True)
        self._run("apt-get", "-q", "-y", "--no-install-recommends", "--download-only", "-t", "sid",
                  "-o", f"Dir::State::status={status}", "-o", f"Dir::Cache::archives={folder}",
                  "install", *packages)
        self._unpack(folder, tree)

    def _unpack(self, folder, tree):
        for deb in sorted(folder.glob("*.deb")):
            run("dpkg-deb", "-x", deb, tree, log=self.log)
            deb.unlink()

    def dependency(self, package, suite, pattern):
        """The first dependency of a package whose name matches."""
        listed = output("apt-cache", "depends", f"{package}/{suite}", env=self._environment())
        for line in listed.splitlines():
            match = re.fullmatch(rf"\s*Depends: ({pattern})", line)
            if match:
                return match[1]
        raise BoxError(f"{package} of Debian {suite} depends on nothing like {pattern}: found\n{listed}")
