"""What kubectl does with a running container's streams and ports."""

import os
import pty
import re
import socket
import subprocess
import tempfile
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from boxlib.errors import BoxError

from ..place import PATIENCE, STAY, container, expect
from ..wait import until


@contextmanager
def _talking(place, *words, terminal=False):
    """A kubectl that runs beside the scenario, and the file that is its input and its output: pipes, or a terminal. It
    ends with the block, or when somebody has lost patience."""
    ours, theirs = pty.openpty() if terminal else (end.detach() for end in socket.socketpair())
    with subprocess.Popen(place.kubectl.words(*words), stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        impatience = threading.Timer(PATIENCE, process.kill)
        impatience.start()
        try:
            with os.fdopen(ours, "r+b", buffering=0) as both:
                yield process, both
        finally:
            impatience.cancel()
            process.kill()


def kubectl_exec(place):
    """Output, standard input, the exit status, an environment variable; a second container by name."""
    place.run("box", container("one", STAY, env=[{"name": "WHO", "value": "one"}]), container("two", STAY))
    kubectl = place.kubectl
    expect("output", place.exec("box", "echo $WHO"), "one")
    expect("standard input", kubectl.run("exec", "-i", "box", "--", "wc", "-c", given="x" * 100_000), "100000")
    expect("exit status", kubectl.try_("exec", "box", "--", "sh", "-c", "exit 42").returncode, 42)
    expect("the second", place.exec("box", "echo $WHO.", "two"), ".")
    missing = kubectl.try_("exec", "box", "--", "/none")
    if missing.returncode == 0 or "/none" not in missing.stderr:
        raise BoxError(f"exec of a missing program: status {missing.returncode}, {missing.stderr!r}")


def kubectl_logs(place):
    """logs -f sees each line when it is written, and ends with the container; --previous has the one before."""
    place.run("talker", container("main", "echo first; while ! [ -e /tmp/go ]; do sleep 0.2; done; echo second"))
    with _talking(place, "logs", "-f", "talker") as (follower, said):
        expect("line", said.readline(), b"first\n")
        place.exec("talker", "touch /tmp/go")
        expect("line", said.readline(), b"second\n")
        expect("the end", (said.read(), follower.wait()), (b"", 0))
    until("second start", PATIENCE, lambda: place.status("talker", "main")["restartCount"] == 1)
    expect("the one before", place.kubectl.run("logs", "--previous", "talker"), "first\nsecond")


def kubectl_attach(place):
    """To a shell that waits for input, and to one with a terminal."""
    read = {"command": ["sh", "-c", "while read line; do echo got $line; done"], "stdin": True}
    place.run("readers", {**container("plain", ""), **read}, {**container("terminal", ""), **read, "tty": True})
    for name, flags in (("plain", ["-i"]), ("terminal", ["-it"])):
        with _talking(place, "attach", *flags, "-c", name, "readers", terminal=name == "terminal") as (_, both):
            both.write(b"hello\n")
            while (line := both.readline()).strip() != b"got hello":
                if not line:
                    raise BoxError(f"the attached {name} shell answered nothing")


def kubectl_port_forward(place):
    """To a server in the pod that listens on every address, and one on localhost only."""
    place.run("server", container(
        "main", f"echo here >/tmp/index.html; httpd -p 8080 -h /tmp; httpd -p 127.0.0.1:8081 -h /tmp; {STAY}",
        readinessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1}))
    for port in (8080, 8081):
        with _talking(place, "port-forward", "pod/server", f":{port}") as (_, output):
            said = output.readline().decode()
            match = re.match(r"Forwarding from (127\.0\.0\.1:\d+)", said)
            if not match:
                raise BoxError(f"port-forward says {said!r}")
            for _ in range(3):
                with urllib.request.urlopen(f"http://{match[1]}/", timeout=60) as answer:
                    expect(f"the server at {port}", answer.read(), b"here\n")


def kubectl_cp(place):
    """A directory into the pod and out again; its files are the same."""
    place.run("copied", container("main", STAY))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "there/deep").mkdir(parents=True)
        (folder / "there/small").write_text("small\n", encoding="utf-8")
        (folder / "there/deep/large").write_bytes(bytes(range(256)) * 8192)
        place.kubectl.run("cp", folder / "there", "copied:/tmp/there")
        expect("size", place.exec("copied", "wc -c </tmp/there/deep/large"), str(256 * 8192))
        place.kubectl.run("cp", "copied:/tmp/there", folder / "back")
        for file in ("small", "deep/large"):
            expect(file, (folder / "back" / file).read_bytes() == (folder / "there" / file).read_bytes(), True)
