"""Volumes whose contents Kubernetes writes, and the node's own."""

from ..images import INSTALLER
from ..place import STAY, container, expect

VOLUMES = [
    {"name": "config", "configMap": {"name": "settings"}},
    {"name": "secret", "secret": {"secretName": "password"}},
    {"name": "about", "downwardAPI": {"items": [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels['colour']"}}]}},
]
UPDATE = 180  # seconds until an update is seen: the kubelet looks once a minute


def _objects(value):
    return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"key": value}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "password"}, "stringData": {"key": value}}]


def updates_of_configmap_secret_labels(place):
    """New contents are seen in a running container; a file mounted by subPath keeps the old ones."""
    kubectl = place.kubectl
    kubectl.apply(*_objects("old"))
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("config", "secret", "about")]
    single = {"name": "config", "mountPath": "/single", "subPath": "key"}
    place.run("reader", container("main", STAY, volumeMounts=[*mounts, single]), volumes=VOLUMES,
              labels={"colour": "red"})
    files = {"/config/key": ("old", "new"), "/secret/key": ("old", "new"), "/about/labels": ("red", "blue")}
    for file, (before, _) in files.items():
        expect(file, place.exec("reader", f"cat {file}"), before)
    kubectl.apply(*_objects("new"))
    kubectl.run("label", "--overwrite", "pod/reader", "colour=blue")
    for file, (_, after) in files.items():
        place.until_says("reader", f"cat {file}", after, UPDATE)
    expect("/single", place.exec("reader", "cat /single"), "old")


def service_account_token(place):
    """The projected token lets a pod ask the API server who it is, by the address that every pod is told."""
    place.run("asker", container("main", STAY, image=INSTALLER))
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    ask = (f"curl -s --max-time 60 --cacert {folder}/ca.crt -H \"Authorization: Bearer $(cat {folder}/token)\""
           " https://$KUBERNETES_SERVICE_HOST/version -o /dev/null -w '%{http_code}'")
    expect("the API server's answer", place.exec("asker", ask), "200")


def host_paths(place):
    """A directory that both sides write, a file, one that is read-only, a socket that is connected to."""
    folder = f"/run/{place.kubectl.namespace}"
    place.node.run("sh", "-c", f"mkdir -p {folder}/dir; echo node >{folder}/file; echo node >{folder}/dir/there")
    answer = "SYSTEM:read line; echo from the node"
    place.node.start("greeter", "socat", f"UNIX-LISTEN:{folder}/socket,fork", answer)
    kinds = {"dir": "Directory", "file": "File", "socket": "Socket"}
    place.run(
        "host", container("main", STAY, image=INSTALLER, volumeMounts=[
            *({"name": name, "mountPath": f"/host/{name}"} for name in kinds),
            {"name": "dir", "mountPath": "/read-only", "readOnly": True}]),
        volumes=[{"name": name, "hostPath": {"path": f"{folder}/{name}", "type": kind}}
                 for name, kind in kinds.items()])
    expect("file", place.exec("host", "cat /host/file /host/dir/there"), "node\nnode")
    place.exec("host", "echo pod >/host/dir/back")
    expect("back", place.node.run("cat", f"{folder}/dir/back"), "pod")
    expect("read-only", place.exec("host", "touch /read-only/x 2>/dev/null && echo written || echo refused"), "refused")
    expect("socket", place.exec("host", "curl -s --http0.9 --unix-socket /host/socket http://node/"), "from the node")
    place.node.stop("greeter")
