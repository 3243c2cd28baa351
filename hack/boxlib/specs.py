"""The specs of critest, one by one in a box: each in a critest of its own, so that one that hangs, or a box that does,
costs only that one."""

import json
import re
import subprocess
from dataclasses import dataclass

from . import critest, remote
from .errors import BoxError

# Seconds that a spec may take in an emulated box; the slowest that pass take under two minutes.
PATIENCE = 300
# And those that the box gets on top to tell how it went and to remove the pods.
GRACE = 180


@dataclass
class Result:
    """How a spec ended: "pass", "fail" or "skip", why, and whether a guest was seen to fault or hang."""

    state: str
    reason: str = ""
    seconds: float = 0
    faulted: bool = False


class BoxLost(Exception):
    """The box answers nobody any more."""


def names(box):
    """The text of every spec that critest has for this box, in the order of its source."""
    report = "/run/critest-names.json"
    script = f"critest -config /dev/null -ginkgo.dry-run -ginkgo.json-report {report} >/dev/null && cat {report}"
    said, _ = _inside(box, ["sh", "-c", script], GRACE)
    found = [spec for spec in _specs(said) if spec["State"] == "passed"]
    found.sort(key=lambda spec: (spec["LeafNodeLocation"]["FileName"], spec["LeafNodeLocation"]["LineNumber"]))
    texts = [_text(spec) for spec in found]
    if not texts or len(set(texts)) != len(texts):
        raise BoxError(f"critest names {len(texts)} specs, {len(set(texts))} of them different: each needs its own name")
    return texts


def run(box, handler, name):
    """Runs the spec of that name in pods of the runtime handler."""
    said, complaints = _inside(box, [f"{critest.THERE}/run-spec", handler, re.escape(name) + "$", str(PATIENCE)],
                               PATIENCE + GRACE)
    if complaints:
        print(f"    the box says: {complaints}")
    faulted = "KVM_EXIT_SHUTDOWN" in complaints or "did not answer" in complaints
    if not said:
        return Result("fail", f"did not end within {PATIENCE} s", PATIENCE, True)
    spec = next((spec for spec in _specs(said) if _text(spec) == name), None)
    if spec is None:
        raise BoxError(f"critest's report does not name the spec {name!r}")
    state = {"passed": "pass", "skipped": "skip"}.get(spec["State"], "fail")
    return Result(state, spec.get("Failure", {}).get("Message", "").strip(), spec["RunTime"] / 1e9, faulted)


def _inside(box, words, seconds):
    """What a command in the box prints: its output and its complaints."""
    try:
        done = subprocess.run(remote.exec_command(box, words, tty=False), cwd=box.folder, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False, timeout=seconds)
    except (BoxError, subprocess.TimeoutExpired) as error:
        raise BoxLost(str(error)) from error
    if done.returncode == 255:  # ssh's own
        raise BoxLost(done.stderr.strip())
    return done.stdout, done.stderr.strip()


def _specs(report):
    return [spec for suite in json.loads(report) for spec in suite["SpecReports"] if spec["LeafNodeType"] == "It"]


def _text(spec):
    return " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]])
