"""Limits that change while a container runs."""

import json

from ..place import PATIENCE, STAY, container, expect
from ..wait import until

# What a container sees of its own limits.
SEEN = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max"


def resized_in_place(place):
    """Limits grow without a restart as far as the VM has memory; beyond it the pod's status says why not."""
    place.run("growing", container("main", STAY, resources=_resources("300m", "32Mi")))
    _resize(place, "800m", "64Mi")
    place.until_says("growing", SEEN, f"{64 << 20}\n80000 100000")
    until("pod's status with the new limit", PATIENCE,
          lambda: place.status("growing", "main")["resources"]["limits"]["memory"] == "64Mi")
    _resize(place, "800m", "512Mi")
    if place.runtime == "krun":
        until("refusal in the pod's status", PATIENCE, lambda: "max_memory_mib" in _resize_message(place))
        limit = 64 << 20
    else:
        limit = 512 << 20
    place.until_says("growing", SEEN, f"{limit}\n80000 100000")
    expect("restarts", place.status("growing", "main")["restartCount"], 0)


def _resources(cpu, memory):
    return {kind: {"cpu": cpu, "memory": memory} for kind in ("requests", "limits")}


def _resize(place, cpu, memory):
    patch = {"spec": {"containers": [{"name": "main", "resources": _resources(cpu, memory)}]}}
    place.kubectl.run("patch", "pod", "growing", "--subresource=resize", "--patch", json.dumps(patch))


def _resize_message(place):
    conditions = place.kubectl.get("pod", "growing")["status"]["conditions"]
    return " ".join(one.get("message", "") for one in conditions if one["type"] == "PodResizeInProgress")
