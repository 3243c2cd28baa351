"""Pods that end by themselves."""

from ..place import container, expect
from ..wait import until


def _spec(place, script):
    return {"backoffLimit": 2, "template": place.template(container("work", script), restartPolicy="Never")}


def job(place):
    """Two completions; then one that fails as often as it may."""
    kubectl = place.kubectl
    kubectl.apply(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "works"},
         "spec": {**_spec(place, "echo worked"), "completions": 2, "parallelism": 2}},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "fails"},
         "spec": {**_spec(place, "exit 7"), "backoffLimit": 0}},
    )
    kubectl.wait("condition=Complete", "job/works")
    expect("log", kubectl.run("logs", "-l", "job-name=works").split(), ["worked", "worked"])
    kubectl.wait("condition=Failed", "job/fails")
    pod = kubectl.get("pods", "-l", "job-name=fails")["items"][0]["metadata"]["name"]
    expect("exit status", place.status(pod, "work")["state"]["terminated"]["exitCode"], 7)


def cron_job(place):
    """One that is due every minute."""
    kubectl = place.kubectl
    kubectl.apply({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "minutely"},
                   "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Forbid",
                            "jobTemplate": {"spec": _spec(place, "echo ticked")}}})
    until("success of a CronJob", 240, lambda: "lastSuccessfulTime" in kubectl.get("cronjob", "minutely")["status"])
    kubectl.run("delete", "cronjob", "minutely")
