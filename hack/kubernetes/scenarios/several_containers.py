"""What the containers of one pod share, and in which order they run."""

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
    """One on the node's disk and one in memory, each shared by two containers and gone with the pod."""
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("disk", "memory")]
    place.run("shared", container("one", STAY, volumeMounts=mounts), container("two", STAY, volumeMounts=mounts),
              volumes=[{"name": "disk", "emptyDir": {}},
                       {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}])
    for name in ("disk", "memory"):
        place.exec("shared", f"echo {name} >/{name}/file", "one")
        expect(name, place.exec("shared", f"cat /{name}/file", "two"), name)
    expect("file system", place.exec("shared", "stat -f -c %T /memory", "two"), "tmpfs")


def processes_shared(place):
    """shareProcessNamespace, and one that is debugged by an ephemeral container."""
    place.run("open", container("one", f"echo $$ >/tmp/pid; {STAY}"), container("two", f"sleep 12345 & {STAY}"),
              shareProcessNamespace=True)
    expect("processes of the other", place.exec("open", "ps | grep -c '[s]leep 12345'", "one"), "1")


def ephemeral_container(place):
    """kubectl debug: a container that joins a running pod, and one container's processes."""
    place.run("watched", container("main", f"sleep 23456 & {STAY}"))
    said = place.kubectl.run("debug", "watched", "--image=localhost/busybox:1", "--target=main", "--attach",
                             "--quiet", "--", "sh", "-c", "ps | grep -c '[s]leep 23456'")
    expect("processes of the target", said, "1")
