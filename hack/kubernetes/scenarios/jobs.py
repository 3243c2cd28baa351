"""Pods that end by themselves."""

from ..place import PATIENCE, container, expect
from ..wait import until


def _spec(place, script):
    return {"backoffLimit": 2, "template": place.template(container("work", script), restartPolicy="Never")}


def job(place):
    """Two completions at the same time."""
    kubectl = place.kubectl
    kubectl.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "works"},
                   "spec": {**_spec(place, "echo worked"), "completions": 2, "parallelism": 2}})
    kubectl.wait("condition=Complete", "job/works")
    expect("log", kubectl.run("logs", "-l", "job-name=works").split(), ["worked", "worked"])


def cron_job(place):
    """One that is due every minute."""
    kubectl = place.kubectl
    kubectl.apply({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "minutely"},
                   "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Forbid",
                            "jobTemplate": {"spec": _spec(place, "echo ticked")}}})
    until("success of a CronJob", PATIENCE, lambda: "lastSuccessfulTime" in kubectl.get("cronjob", "minutely")["status"])
    kubectl.run("delete", "cronjob", "minutely")
