"""What happens to pods when something happens to their node."""

from ..control_plane import NODE_NAME
from ..place import PATIENCE, STAY, container, expect
from ..wait import until

COUNT = "n=0; while :; do n=$((n + 1)); echo $n >/tmp/count; sleep 0.2; done"


def summary(place):
    """The kubelet's summary knows what the pod and its container use."""
    place.run("busy", container(
        "main", "dd if=/dev/zero of=/dev/shm/ballast bs=1M count=20 2>/dev/null; while :; do :; done"))

    def used():
        for pod in place.control_plane.ask_kubelet("/stats/summary")["pods"]:
            if pod["podRef"]["namespace"] == place.kubectl.namespace and pod.get("containers"):
                main = pod["containers"][0]
                numbers = [pod["cpu"].get("usageNanoCores", 0), pod["memory"].get("workingSetBytes", 0) >> 20,
                           main["cpu"].get("usageNanoCores", 0), main["memory"].get("workingSetBytes", 0) >> 20,
                           pod.get("network", {}).get("rxBytes", 0)]
                return all(numbers) and numbers
        return None

    pod_cpu, pod_memory, cpu, memory, _ = until("complete statistics", 180, used)
    expect("CPU above a tenth", min(pod_cpu, cpu) > 100_000_000, True)
    expect(f"memory above 20 MiB: {pod_memory}, {memory}", min(pod_memory, memory) >= 20, True)


def kubelet_restart(place):
    """The pod goes on with the same containers; exec works again; it is deleted as usual."""
    _survives(place, _restart_kubelet)


def containerd_restart(place):
    """The same."""
    _survives(place, lambda place: place.node.run("containerd-ctl", "restart"))


def containerd_killed(place):
    """The same, with SIGKILL."""
    _survives(place, lambda place: place.node.run("sh", "-c", "containerd-ctl kill && containerd-ctl start"))


def drain(place):
    """Pods are evicted; a Deployment's new one waits until the node is open again."""
    labels = {"app": "moved"}
    place.kubectl.apply({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "moved"},
        "spec": {"selector": {"matchLabels": labels}, "template": place.template(container("main", STAY), labels=labels)}})
    place.kubectl.run("rollout", "status", "deployment/moved", "--timeout=420s")
    administrator = place.control_plane.kubectl
    try:
        administrator.run("drain", NODE_NAME, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=420s")
        pods = place.kubectl.get("pods")["items"]
        expect("phases", [pod["status"]["phase"] for pod in pods], ["Pending"])
    finally:
        administrator.run("uncordon", NODE_NAME)
    place.kubectl.run("rollout", "status", "deployment/moved", "--timeout=420s")


def _restart_kubelet(place):
    place.node.stop("kubelet")
    place.node.start_kubelet()


def _survives(place, event):
    place.run("steady", container("main", COUNT), container("other", STAY))

    def containers():
        return {name: place.status("steady", name)["containerID"] for name in ("main", "other")}

    before = containers()
    count = int(place.exec("steady", "cat /tmp/count"))
    event(place)

    def counts_on():
        said = place.kubectl.try_("exec", "steady", "-c", "main", "--", "cat", "/tmp/count")
        return said.returncode == 0 and said.stdout.strip().isdecimal() and int(said.stdout) > count

    until("exec that works", PATIENCE, counts_on)
    place.control_plane.kubectl.wait("condition=Ready", f"node/{NODE_NAME}")
    place.ready("pod/steady")
    expect("containers", containers(), before)
    place.kubectl.run("delete", "pod", "steady")
