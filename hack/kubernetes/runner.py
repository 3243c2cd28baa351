"""Runs the scenarios with each runtime, and makes the table."""

import time
import traceback
from dataclasses import dataclass

from boxlib.errors import BoxError

from .place import Place

PATIENCE = 600  # seconds for everything that the scenarios made to go
# A label of the scenarios' namespaces.
OURS = "krun-test"


@dataclass(frozen=True)
class Result:
    """One scenario's with one runtime."""

    seconds: float
    error: str | None  # None: passed

    def __str__(self):
        return f"{'FAILED' if self.error else 'passed'}, {self.seconds:.0f} s"


def run(scenarios, runtimes, control_plane, node):
    """All of them with each runtime: a dictionary of results by (name, runtime)."""
    results = {}
    for runtime in runtimes:
        for scenario in scenarios:
            result = _one(scenario, runtime, control_plane, node)
            results[scenario.__name__, runtime] = result
            print(f"{runtime} {scenario.__name__}: {result}", flush=True)
            if result.error:
                print(result.error, flush=True)
    control_plane.kubectl.wait("delete", "namespace", f"--selector={OURS}", seconds=PATIENCE)
    return results


def table(scenarios, runtimes, results):
    """The results as Markdown."""
    lines = ["| scenario | what | " + " | ".join(runtimes) + " |", "|---|---|" + "---|" * len(runtimes)]
    for scenario in scenarios:
        what = " ".join(scenario.__doc__.split())
        cells = [str(results[scenario.__name__, runtime]) for runtime in runtimes]
        lines.append(f"| {scenario.__name__.replace('_', ' ')} | {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _one(scenario, runtime, control_plane, node):
    namespace = f"{runtime}-{scenario.__name__.replace('_', '-')}"
    administrator = control_plane.kubectl
    place = Place(runtime, administrator.within(namespace), control_plane, node)
    began = time.monotonic()
    error = None
    try:
        control_plane.processes.check()
        administrator.apply({"apiVersion": "v1", "kind": "Namespace",
                             "metadata": {"name": namespace, "labels": {OURS: "true"}}})
        place.kubectl.wait("create", "serviceaccount/default")
        scenario(place)
        began, seconds = time.monotonic(), time.monotonic() - began
    except Exception as failure:  # a failed scenario, and also one with a mistake in it, must not end the others
        began, seconds = time.monotonic(), time.monotonic() - began
        error = str(failure) if isinstance(failure, BoxError) else traceback.format_exc()
        error += "\n" + _circumstances(place)
    # The next one need not wait until all of it is gone.
    administrator.run("delete", "namespace", namespace, "--wait=false")
    return Result(seconds, error)


def _circumstances(place):
    """What helps to see why one failed."""
    events = "-o=custom-columns=WHEN:.lastTimestamp,WHAT:.involvedObject.name,WHY:.reason,SAYS:.message"
    said = [place.kubectl.try_("get", "pods", "-o", "wide").stdout,
            place.kubectl.try_("get", "events", "--sort-by=.lastTimestamp", events).stdout]
    return "\n".join(said)
