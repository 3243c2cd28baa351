"""What pods could leave on the node: processes, mounts, network namespaces, cgroups."""

LOOK = r"""
for process in /proc/[0-9]*; do
	case $(cat "$process/comm" 2>/dev/null) in
	containerd-shim* | krun-* | guest-init) echo "process $(tr '\0' ' ' <"$process/cmdline")" ;;
	esac
done
awk '{print "mount", $5}' /proc/self/mountinfo
ls -d /run/netns/* /run/krun/* 2>/dev/null
find /sys/fs/cgroup/kubepods* -mindepth 2 -type d -name '*pod[0-9a-f]*' 2>/dev/null
ctr -n k8s.io tasks ls -q
true
"""


def seen(node):
    """A set of lines."""
    return set(node.run("sh", "-c", LOOK).splitlines())
