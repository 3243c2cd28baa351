"""What the containers of one pod share, and in which order they run."""

from ..images import BUSYBOX
from ..place import STAY, container, expect

WORK = {"name": "work", "mountPath": "/work"}


def init_container_and_sidecar(place):
    """The init container ends before the sidecar starts, that before the main one; the sidecar ends with the pod."""
    place.kubectl.apply(place.pod(
        "three",
        container("main", "cat /work/order; wget -q -O - -T 30 http://127.0.0.1:8080/hello", volumeMounts=[WORK]),
        initContainers=[
            container("init", "sleep 1; echo init >>/work/order", volumeMounts=[WORK]),
            container("sidecar", "echo sidecar >>/work/order; echo from the sidecar >/tmp/hello;"
                      f" httpd -p 8080 -h /tmp; {STAY}", volumeMounts=[WORK], restartPolicy="Always",
                      startupProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 60}),
        ],
        volumes=[{"name": "work", "emptyDir": {}}], restartPolicy="Never"))
    place.ended("three")
    expect("log", place.kubectl.run("logs", "three", "-c", "main").splitlines(), ["init", "sidecar", "from the sidecar"])


def empty_dir(place):
    """One on the node's disk and one in memory, each shared by two containers; the latter has a limit."""
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("disk", "memory")]
    place.run("shared", container("one", STAY, volumeMounts=mounts), container("two", STAY, volumeMounts=mounts),
              volumes=[{"name": "disk", "emptyDir": {}},
                       {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}])
    for name in ("disk", "memory"):
        place.exec("shared", f"echo {name} >/{name}/file", "one")
        expect(name, place.exec("shared", f"cat /{name}/file", "two"), name)
    full = "dd if=/dev/zero of=/memory/large bs=1M count=20 2>&1 | grep -o 'No space left on device'"
    expect("more than its limit", place.exec("shared", full), "No space left on device")


# A process that another container may or may not see.
SEEN, LOOK = f"tail -f /dev/null & {STAY}", "pidof tail >/dev/null && echo seen || echo hidden"


def processes_shared(place):
    """With shareProcessNamespace one container sees the other's processes."""
    place.run("open", container("one", STAY), container("two", SEEN), shareProcessNamespace=True)
    expect("the other's process", place.exec("open", LOOK, "one"), "seen")


def ephemeral_container(place):
    """kubectl debug: a container that joins a running pod, and sees one container's processes."""
    place.run("watched", container("main", SEEN), container("other", STAY))
    expect("the process for another container", place.exec("watched", LOOK, "other"), "hidden")
    kubectl = place.kubectl
    kubectl.run("debug", "watched", f"--image={BUSYBOX}", "--target=main", "--container=debugger", "--attach=false",
                "--", "sh", "-c", LOOK)
    kubectl.wait("jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.reason}=Completed", "pod/watched")
    expect("the process for the debugging container", kubectl.run("logs", "watched", "-c", "debugger"), "seen")
