"""Probes of every kind that fail and recover."""

from ..place import PATIENCE, STAY, container
from ..wait import until

SOON = {"periodSeconds": 2, "timeoutSeconds": 20, "failureThreshold": 1, "successThreshold": 1}
PROBES = {
    "by-exec": {"exec": {"command": ["test", "-e", "/tmp/web/healthy"]}},
    "by-http": {"httpGet": {"port": 8081, "path": "/healthy"}},
    "by-tcp": {"tcpSocket": {"port": 8082}},
}
# Serves files at 8081, and something at 8082 as long as there is a file.
SERVE = ("mkdir /tmp/web; touch /tmp/web/healthy; httpd -p 8081 -h /tmp/web;"
         " while :; do if [ -e /tmp/web/healthy ]; then [ -n \"$pid\" ] || { nc -ll -p 8082 -e true & pid=$!; };"
         " elif [ -n \"$pid\" ]; then kill $pid; pid=; fi; sleep 0.3 & wait $!; done")


def readiness_probes(place):
    """A pod is ready, is not when the probe fails, and is again: exec, HTTP, TCP."""
    for name, probe in PROBES.items():
        place.kubectl.apply(place.pod(name, container("main", SERVE, readinessProbe={**probe, **SOON})))
    for name in PROBES:
        place.ready(f"pod/{name}")
        place.exec(name, "rm /tmp/web/healthy")
    for name in PROBES:
        place.kubectl.wait("condition=Ready=false", f"pod/{name}")
        place.exec(name, "touch /tmp/web/healthy")
    for name in PROBES:
        place.ready(f"pod/{name}")


def liveness_and_startup_probes(place):
    """A container that fails is started anew, in the same pod; one that starts slowly is given its time."""
    place.run("alive", container(
        "main", f"sleep 3; touch /tmp/healthy; {STAY}",
        startupProbe={"exec": {"command": ["test", "-e", "/tmp/healthy"]}, "periodSeconds": 1, "failureThreshold": 90,
                      "timeoutSeconds": 20},
        livenessProbe={"exec": {"command": ["test", "-e", "/tmp/healthy"]}, **SOON}))
    place.exec("alive", "rm /tmp/healthy")
    until("second start", PATIENCE, lambda: place.status("alive", "main")["restartCount"] == 1)
    place.ready("pod/alive")
