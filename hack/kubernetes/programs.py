"""The programs of the cluster, in the cache: Kubernetes' own built from go.mod, etcd out of Debian's package."""

import re
import shutil

from boxlib import cache, debian, golang
from boxlib.errors import BoxError

MODULE = cache.HACK / "kubernetes"
GO_FILES = (MODULE / "go.mod", MODULE / "go.sum")
NAMES = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet")
# Whose etcd is as new as Kubernetes asks for and runs with this machine's libc.
ETCD_SUITE = "trixie"


def kubernetes():
    """The directory that holds all of NAMES, built if need be."""
    key = cache.recipe(*GO_FILES, NAMES, cache.HACK / "boxlib/golang.py")
    return cache.stage("kubernetes", key, _build)


def version():
    """The version of Kubernetes that go.mod pins, like 1.34.4."""
    match = re.search(r"^\s*k8s\.io/kubernetes v(\S+)", GO_FILES[0].read_text(encoding="utf-8"), re.MULTILINE)
    if not match:
        raise BoxError(f"{GO_FILES[0]} requires no k8s.io/kubernetes")
    return match[1]


def etcd():
    """Debian's etcd."""
    key = cache.recipe(ETCD_SUITE, cache.HACK / "boxlib/debian.py")
    return cache.stage("etcd", key, _unpack_etcd) / "usr/bin/etcd"


def _build(scratch):
    print("building Kubernetes; this happens once and takes half an hour", flush=True)
    log = cache.directory() / "kubernetes.log"
    log.write_bytes(b"")
    major, minor, _ = version().split(".")
    # Without these it says v0.0.0, which its parts refuse to take for each other's age.
    says = {"gitVersion": f"v{version()}", "gitMajor": major, "gitMinor": minor}
    variables = [f"k8s.io/{package}.{name}={value}" for name, value in says.items()
                 for package in ("component-base/version", "client-go/pkg/version")]
    golang.build(MODULE, ["build"], [f"k8s.io/kubernetes/cmd/{name}" for name in NAMES], scratch, log, variables)


def _unpack_etcd(scratch):
    log = cache.directory() / "etcd.log"
    log.write_bytes(b"")
    apt = debian.Apt(scratch / "apt", log)
    apt.extract("etcd-server", ETCD_SUITE, scratch)
    shutil.rmtree(scratch / "apt")
