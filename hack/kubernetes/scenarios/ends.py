"""How containers end, and what Kubernetes is told of it."""

import time

from ..place import STAY, container, expect


def oom_killed(place):
    """A container that takes more than its limit is OOMKilled; the other one of its pod goes on."""
    limit = {"limits": {"memory": "32Mi"}}
    place.kubectl.apply(place.pod(
        "hungry", container("eater", "tail /dev/zero", resources=limit), container("calm", STAY, resources=limit),
        restartPolicy="Never"))
    place.kubectl.wait("jsonpath={.status.containerStatuses[?(@.name=='eater')].state.terminated.reason}=OOMKilled",
                       "pod/hungry")
    expect("exit status", place.status("hungry", "eater")["state"]["terminated"]["exitCode"], 137)
    expect("the other", place.exec("hungry", "echo fine", "calm"), "fine")


def termination_message(place):
    """What a container wrote to its termination log; and the end of its output, when it failed and that is asked for."""
    place.kubectl.apply(place.pod(
        "last", container("writer", "echo -n goodbye >/dev/termination-log; exit 3"),
        container("talker", "echo last words; exit 4", terminationMessagePolicy="FallbackToLogsOnError"),
        restartPolicy="Never"))
    place.ended("last", "Failed")
    for name, status, message in (("writer", 3, "goodbye"), ("talker", 4, "last words\n")):
        end = place.status("last", name)["state"]["terminated"]
        expect(name, (end["exitCode"], end["message"]), (status, message))


def restart_policy(place):
    """A container that fails is started again in the same VM; what its pod keeps, an emptyDir, is still there."""
    mount = {"name": "work", "mountPath": "/work"}
    place.kubectl.apply(place.pod(
        "stubborn", container("main", "echo try >>/work/tries; [ $(wc -l </work/tries) = 2 ]", volumeMounts=[mount]),
        volumes=[{"name": "work", "emptyDir": {}}], restartPolicy="OnFailure"))
    place.ended("stubborn")
    expect("restarts", place.status("stubborn", "main")["restartCount"], 1)


def pre_stop_and_grace(place):
    """preStop runs before SIGTERM; who ignores SIGTERM is killed when the grace period is over."""
    folder = f"/run/{place.kubectl.namespace}"
    place.node.run("mkdir", folder)
    mount = {"name": "out", "mountPath": "/out"}
    polite = container("polite", "", volumeMounts=[mount], lifecycle={
        "preStop": {"exec": {"command": ["sh", "-c", "echo preStop >>/out/order"]}}})
    polite["command"] = ["sh", "-c", f"trap 'echo SIGTERM >>/out/order; exit 0' TERM; {STAY}"]
    deaf = container("deaf", "")
    deaf["command"] = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
    place.run("leaving", polite, deaf, terminationGracePeriodSeconds=15,
              volumes=[{"name": "out", "hostPath": {"path": folder, "type": "Directory"}}])
    began = time.monotonic()
    place.kubectl.run("delete", "pod", "leaving")
    took = time.monotonic() - began
    expect(f"the pod's end after the grace period of 15 s, {took:.0f} s", 15 <= took < 60, True)
    expect("order", place.node.run("cat", f"{folder}/order"), "preStop\nSIGTERM")
    place.node.run("rm", "-r", folder)
