"""Where a scenario runs: a namespace of its own, and pods that run with one runtime."""

from dataclasses import dataclass

from boxlib.errors import BoxError

from .control_plane import ControlPlane
from .images import BUSYBOX
from .kubectl import Kubectl
from .node import Node
from .wait import until

# A VM needs no more for what is run here, and boots the sooner.
MEMORY = {"io.containerd.krun.memory_mib": "256"}
# Seconds: a VM boots in 5 in an emulated box that has nothing else to do.
PATIENCE = 420


@dataclass(frozen=True)
class Place:
    """`runtime` is krun or runc."""

    runtime: str
    kubectl: Kubectl
    control_plane: ControlPlane
    node: Node

    def spec(self, *containers, **rest):
        """A pod's spec for this runtime."""
        chosen = {"runtimeClassName": "krun"} if self.runtime == "krun" else {}
        return {**chosen, "terminationGracePeriodSeconds": 2, "containers": list(containers), **rest}

    def template(self, *containers, labels=None, **rest):
        """A pod's template, for what makes pods."""
        return {"metadata": {"annotations": MEMORY, "labels": labels or {}}, "spec": self.spec(*containers, **rest)}

    def pod(self, name, *containers, labels=None, **rest):
        """A pod."""
        made = self.template(*containers, labels=labels, **rest)
        made["metadata"]["name"] = name
        return {"apiVersion": "v1", "kind": "Pod", **made}

    def run(self, name, *containers, **rest):
        """Makes a pod and waits until it is ready."""
        self.kubectl.apply(self.pod(name, *containers, **rest))
        self.ready(f"pod/{name}")

    def ready(self, what, seconds=PATIENCE):
        """Waits until a pod, or all those of a selector, are ready."""
        self.kubectl.wait("condition=Ready", what, seconds=seconds)

    def ended(self, name, phase="Succeeded", seconds=PATIENCE):
        """Waits for a pod's end."""
        self.kubectl.wait(f"jsonpath={{.status.phase}}={phase}", f"pod/{name}", seconds=seconds)

    def exec(self, pod, script, container=None):
        """What a script says in a container."""
        where = ["-c", container] if container else []
        return self.kubectl.run("exec", pod, *where, "--", "sh", "-c", script)

    def status(self, pod, container):
        """A container's status."""
        status = self.kubectl.get("pod", pod)["status"]
        every = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
        return next(one for one in every if one["name"] == container)

    def until_says(self, pod, script, wanted, seconds=PATIENCE, container=None):
        """Waits until a script says that in a container."""
        until(f"{wanted!r} from `{script}` in {pod}", seconds, lambda: self.exec(pod, script, container) == wanted)


def container(name, script, image=BUSYBOX, **rest):
    """A container that runs a shell's script; what it does at SIGTERM is for the script to say, or it ends at once."""
    return {"name": name, "image": image, "command": ["sh", "-c", f"trap 'exit 0' TERM\n{script}"], **rest}


# A script's way to stay and still hear signals.
STAY = "while :; do sleep 1 & wait $!; done"


def expect(what, seen, wanted):
    """An error unless both are the same."""
    if seen != wanted:
        raise BoxError(f"{what}: {seen!r}, not {wanted!r}")
