"""Probes of every kind that fail and recover."""

from ..place import PATIENCE, STAY, container
from ..wait import until

SOON = {"periodSeconds": 5, "timeoutSeconds": 20, "failureThreshold": 1, "successThreshold": 1}
# Of containers that serve files at one port, and something at another as long as a file is there.
PROBES = {
    "by-exec": {"exec": {"command": ["test", "-e", "/tmp/web/healthy"]}},
    "by-http": {"httpGet": {"port": 8101, "path": "/healthy"}},
    "by-tcp": {"tcpSocket": {"port": 8202}},
}
SERVE = """mkdir /tmp/web
touch /tmp/web/healthy
httpd -p {http} -h /tmp/web
while :; do
	if ! [ -e /tmp/web/healthy ]; then
		[ -z "$server" ] || kill $server
		server=
	elif [ -z "$server" ]; then
		nc -ll -p {tcp} -e true &
		server=$!
	fi
	sleep 1
done"""


def readiness_probes(place):
    """Containers are ready, are not when their probe fails, and are again: exec, HTTP, TCP."""
    place.run("probed", *(container(name, SERVE.format(http=8100 + number, tcp=8200 + number),
                                    readinessProbe=probe | SOON)
                          for number, (name, probe) in enumerate(PROBES.items())))
    for command, ready in (("rm", False), ("touch", True)):
        for name in PROBES:
            place.exec("probed", f"{command} /tmp/web/healthy", name)
        for name in PROBES:
            until(f"container {name} with ready = {ready}", PATIENCE,
                  lambda name=name, ready=ready: place.status("probed", name)["ready"] == ready)


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
