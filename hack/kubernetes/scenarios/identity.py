"""Who a container is, what it may do, and where."""

from ..place import STAY, container, expect


def users_and_groups(place):
    """runAsUser, supplemental groups, and an emptyDir that belongs to fsGroup."""
    mount = {"name": "work", "mountPath": "/work"}
    place.run("user", container("main", STAY, volumeMounts=[mount]),
              volumes=[{"name": "work", "emptyDir": {}}],
              securityContext={"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [4000]})
    expect("ids", place.exec("user", "id -u; id -g; id -G").splitlines(), ["1000", "3000", "3000 2000 4000"])
    place.exec("user", "touch /work/file")
    expect("a new file's owner", place.exec("user", "stat -c %u:%g /work/file"), "1000:2000")


def restrictions(place):
    """readOnlyRootFilesystem, no capabilities, no new privileges, seccomp's RuntimeDefault, a sysctl of the pod."""
    security = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"}}
    place.run("bound", container("main", STAY, securityContext=security),
              securityContext={"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}]})
    status = place.exec("bound", "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status").split()
    expect("status", status, ["CapEff:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"])
    expect("root file system", place.exec("bound", "touch /x 2>/dev/null && echo written || echo refused"), "refused")
    expect("sysctl", place.exec("bound", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "80")


def privileged(place):
    """A privileged container mounts a file system."""
    place.run("free", container("main", STAY, securityContext={"privileged": True}))
    expect("mount", place.exec("free", "mkdir /m && mount -t tmpfs none /m && stat -f -c %T /m"), "tmpfs")


def host_network(place):
    """A server of a hostNetwork pod is reached at the node's address."""
    place.run("at-home", container("main", f"echo home >/tmp/index.html; httpd -p 18080 -h /tmp; {STAY}"),
              hostNetwork=True)
    place.run("client", container("main", STAY))
    address = place.kubectl.get("pod", "at-home")["status"]["hostIP"]
    place.until_says("client", f"wget -q -O - -T 5 http://{address}:18080/ || true", "home", 60)
