"""The node: a box whose containerd is configured as an administrator would for any Kubernetes, with a kubelet and
kube-proxy. Nothing of krun is in it: that is for the installer of deploy/ to bring."""

import json
import subprocess

from boxlib import install, remote
from boxlib.errors import BoxError

from . import images, programs
from .control_plane import NODE_ADDRESS, NODE_NAME

PODS = "10.88.0.0/16"
# containerd's configuration in the two versions that there are: which image is a sandbox's, and, where systemd makes the
# cgroups, the runtime that otherwise stands in containerd's own defaults.
SANDBOX_IMAGE = {
    2: f"[plugins.'io.containerd.grpc.v1.cri']\n  sandbox_image = '{images.PAUSE}'\n",
    3: f"[plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = '{images.PAUSE}'\n",
}
RUNC_WITH_SYSTEMD = """[plugins.'{cri}'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
  options.SystemdCgroup = true
"""
CRI = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
BRIDGE = {"cniVersion": "1.0.0", "name": "pods", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": True}},
]}
KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                       "x509": {"clientCAFile": "/etc/kubernetes/ca.crt"}},
    "authorization": {"mode": "Webhook"},
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    "failSwapOn": False,
    # Its images are nowhere else.
    "imageGCHighThresholdPercent": 100,
    "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    # Everything takes longer in an emulated machine.
    "runtimeRequestTimeout": "10m", "nodeLeaseDurationSeconds": 160,
}
# Starts a program of the node in the background with a pid file, its log in /var/log.
START = 'name=$1; shift; setsid "$@" </dev/null >>/var/log/$name.log 2>&1 & echo $! >/run/$name.pid'
# Ends it and waits until it is gone.
STOP = 'pid=$(cat /run/$1.pid) && kill $pid && while [ -e /proc/$pid ]; do sleep 0.1; done'


class Node:
    """A running box, as a node of that control plane."""

    def __init__(self, box, control_plane):
        self.box, self.control_plane = box, control_plane
        options = box.state()["options"]
        self.systemd = options["init"] == "systemd"
        self.config_version = 3 if options["containerd"].startswith("2.") else 2

    def set_up(self, folder):
        """Everything, in the order that an administrator would do it in."""
        self._configure(folder)
        images.load(self)
        self._reach_each_other()
        kubernetes = programs.kubernetes()
        install.copy(self.box, {kubernetes / name: f"usr/local/bin/{name}" for name in ("kubelet", "kube-proxy")})
        self.start_kubelet()
        # It tunes what the module brings, and does not load it.
        self.run("modprobe", "nf_conntrack")
        self.start("kube-proxy", "kube-proxy", "--kubeconfig=/etc/kubernetes/kube-proxy.kubeconfig",
                   f"--hostname-override={NODE_NAME}", "--proxy-mode=iptables",
                   f"--cluster-cidr={PODS}", "--conntrack-max-per-core=0")
        kubectl = self.control_plane.kubectl
        kubectl.wait("create", f"node/{NODE_NAME}")
        kubectl.wait("condition=Ready", f"node/{NODE_NAME}")

    def run(self, *words, given=None, timeout=300):
        """What a command in the box prints that must succeed."""
        done = self.try_(*words, given=given, timeout=timeout)
        if done.returncode != 0:
            raise BoxError(f"`{' '.join(words)}` in the box ended with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def try_(self, *words, given=None, timeout=300):
        """What became of a command in the box."""
        command = remote.exec_command(self.box, words, tty=False)
        try:
            return subprocess.run(command, cwd=self.box.folder, input=given or "", capture_output=True, text=True,
                                  check=False, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise BoxError(f"`{' '.join(words)}` in the box did not end in {timeout} s") from error

    def start(self, name, *words):
        """Starts a program in the box that stays, under a name of ours."""
        self.run("sh", "-c", START, "start", name, *words)

    def stop(self, name):
        """Ends it."""
        self.run("sh", "-c", STOP, "stop", name)

    def start_kubelet(self):
        """Starts the kubelet."""
        # Collecting garbage costs an emulated machine more than memory does, and looking at every cgroup costs it much.
        self.start("kubelet", "env", "GOGC=800", "kubelet", "--config=/etc/kubernetes/kubelet.json",
                   "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig", f"--hostname-override={NODE_NAME}",
                   f"--node-ip={NODE_ADDRESS}", "--housekeeping-interval=30s")

    def _configure(self, folder):
        """The files of /etc, the cluster's identities among them."""
        there = f"https://127.0.0.1:{self.control_plane.port}"
        authority = self.control_plane.authority
        kubelet = authority.kubeconfig("kubelet", f"system:node:{NODE_NAME}", there, "system:nodes")
        proxy = authority.kubeconfig("kube-proxy", "system:kube-proxy", there)
        files = {
            "etc/containerd/config.toml": self._containerd_config(),
            "etc/cni/net.d/10-pods.conflist": json.dumps(BRIDGE),
            "etc/kubernetes/kubelet.json": json.dumps({
                **KUBELET, "port": self.control_plane.kubelet_port,
                "cgroupDriver": "systemd" if self.systemd else "cgroupfs"}),
            "etc/kubernetes/ca.crt": authority.certificate.read_text(encoding="utf-8"),
            "etc/kubernetes/kubelet.kubeconfig": kubelet.read_text(encoding="utf-8"),
            "etc/kubernetes/kube-proxy.kubeconfig": proxy.read_text(encoding="utf-8"),
        }
        for name, text in files.items():
            path = folder / "node" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        remote.push(self.box, folder / "node/etc", "/")
        self.run("containerd-ctl", "restart")

    def _containerd_config(self):
        version = self.config_version
        runc = RUNC_WITH_SYSTEMD.format(cri=CRI[version]) if self.systemd else ""
        return f"version = {version}\n{SANDBOX_IMAGE[version]}{runc}"

    def _reach_each_other(self):
        """The node sees the API server, and that sees the kubelet, at the port that each has: QEMU's network lets
        nobody out, so all goes through the box's one connection."""
        server, kubelet = self.control_plane.port, self.control_plane.kubelet_port
        remote.forward(self.box, ("-R", f"127.0.0.1:{server}:127.0.0.1:{server}"),
                       ("-L", f"127.0.0.1:{kubelet}:127.0.0.1:{kubelet}"))
        # For pods, who cannot reach the node's loopback interface.
        self.start("api-server", "socat", f"TCP-LISTEN:{server},bind={NODE_ADDRESS},fork,reuseaddr",
                   f"TCP:127.0.0.1:{server}")
