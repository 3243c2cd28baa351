"""krun on the node, as its administrator would do it: deploy/kubernetes, in an overlay that says how this node is."""

import json
import tempfile
from pathlib import Path

from boxlib import cache
from boxlib.errors import BoxError

DEPLOY = cache.HACK.parent / "deploy/kubernetes"
NAMESPACE, NAME = "krun-system", "krun-installer"
# The box has no systemd. Its containerd must not stay in the cgroup of the pod that starts it.
RESTART = "nsenter --target 1 --cgroup -- sh -c 'echo 0 >/sys/fs/cgroup/cgroup.procs && containerd-ctl restart'"
PATCH = {"spec": {"template": {"spec": {"containers": [
    {"name": "installer", "env": [{"name": "RESTART_CONTAINERD", "value": RESTART}]}]}}}}


def install(control_plane, node):
    """Applies it and waits until the installer says that it is done."""
    kubectl = control_plane.kubectl
    with tempfile.TemporaryDirectory(dir=DEPLOY.parent) as folder:
        (Path(folder) / "kustomization.yaml").write_text(json.dumps({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": ["../kubernetes"],
            "patches": [{"target": {"kind": "DaemonSet"}, "patch": json.dumps(
                {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": NAME}, **PATCH})}],
        }), encoding="utf-8")
        kubectl.run("apply", "-k", folder)
    installer = kubectl.within(NAMESPACE)
    done = installer.try_("rollout", "status", f"daemonset/{NAME}", "--timeout=300s", timeout=330)
    said = installer.try_("logs", f"daemonset/{NAME}").stdout
    if done.returncode != 0:
        raise BoxError(f"the installer is not ready: {done.stderr}{installer.try_('describe', 'pods').stdout}{said}")
    print(said, flush=True)


def uninstall(control_plane, node):
    """Removes it as docs/kubernetes.md says, and looks whether the node is as it was."""
    kubectl = control_plane.kubectl
    kubectl.run("delete", "daemonset", NAME, f"--namespace={NAMESPACE}", "--cascade=foreground", "--timeout=240s")
    kubectl.run("delete", "-k", str(DEPLOY), "--ignore-not-found", "--timeout=240s")
    left = node.run("sh", "-c", "cd /usr/local; ls -d bin/*krun* lib/*krun* libexec/krun share/doc/containerd-shim-krun /run/krun 2>/dev/null;"
                    " grep -n krun /etc/containerd/config.toml; true")
    if left:
        raise BoxError(f"the installer left on the node:\n{left}")
    labels = kubectl.run("get", "nodes", "--show-labels")
    if "krun" in labels:
        raise BoxError(f"the installer left a label: {labels}")
