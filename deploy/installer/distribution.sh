# Which Kubernetes a node has, and so where the configuration of its containerd is, and how that gets a runtime. Sourced by
# install.sh. Whoever sets CONFIG describes a node that is like none of these, and may set the others as well.
#
# KIND      what it is, for people; `containerd` is a plain node, whose containerd checks the file before it is changed
# CONFIG    the file that gets our lines, on the node
# STYLE     block: our lines in that file, between two marks; file: a file of our own
# VERSION   of the lines, where the file does not say it
# TEMPLATE  what the file begins with when we make it
# RESULT    the configuration that containerd reads, where another program makes it of CONFIG
# RESTART_CONTAINERD  the command after a change; empty where containerd's keeper sees it by itself
#
# Sources: docs.k3s.io "Advanced options", docs.rke2.io "Containerd", docs.k0sproject.io "Runtime", microk8s'
# args/containerd-template.toml. kind's nodes are as plain ones.

RANCHER=/var/lib/rancher
MICROK8S=/var/snap/microk8s/current/args

runs() { # a file of a distribution's, and its units: whether one of these runs, which is then $unit. Files outlive a distribution.
	[ -e "$HOST$1" ] || return
	shift
	for unit; do
		case $(on_node "systemctl is-active $unit" 2>/dev/null || true) in
		# A unit that restarts is there, too.
		active | activating | reloading | deactivating) return 0 ;;
		esac
	done
	return 1
}

version_of() { # a file of containerd's configuration
	sed -n 's/^ *version *= *\([0-9]*\).*/\1/p' "$1" | head -n 1
}

of_rancher() { # k3s and rke2 make containerd's configuration of a template
	KIND=$1
	directory=$RANCHER/$1/agent/etc/containerd
	RESULT=$directory/config.toml
	VERSION=$(version_of "$HOST$RESULT")
	name=config$([ "${VERSION:-2}" = 2 ] || echo -v3).toml
	RESTART_CONTAINERD=${RESTART_CONTAINERD:-systemctl restart $unit}
	# Newer ones read drop-ins, and then no template of ours stands in the way of theirs. With version 2 a drop-in would replace
	# the CRI plugin's whole configuration.
	if [ "${VERSION:-2}" != 2 ] && sed -n '/^ *imports *=/,/]/p' "$HOST$RESULT" | grep -qF "$directory/$name.d/"; then
		CONFIG=$directory/$name.d/krun.toml
		STYLE=file
		RESULT=
	else
		CONFIG=$directory/$name.tmpl
		TEMPLATE='{{ template "base" . }}'
	fi
}

find_distribution() {
	STYLE=${STYLE:-block} TEMPLATE=${TEMPLATE:-} RESULT=${RESULT:-} VERSION=${VERSION:-}
	if [ -n "${CONFIG:-}" ]; then
		KIND=${KIND:-containerd}
	elif runs $RANCHER/rke2/agent/etc/containerd/config.toml rke2-server rke2-agent; then
		of_rancher rke2
	elif runs $RANCHER/k3s/agent/etc/containerd/config.toml k3s k3s-agent; then
		of_rancher k3s
	elif runs $MICROK8S/containerd-template.toml snap.microk8s.daemon-containerd; then
		KIND=microk8s
		CONFIG=$MICROK8S/containerd-template.toml
		RESULT=$MICROK8S/containerd.toml
		RESTART_CONTAINERD=${RESTART_CONTAINERD:-systemctl restart snap.microk8s.daemon-containerd}
	elif runs /etc/k0s/containerd.toml k0sworker k0scontroller; then
		KIND=k0s
		STYLE=file
		CONFIG=/etc/k0s/containerd.d/krun.toml
		VERSION=$(version_of "$HOST/etc/k0s/containerd.toml")
		# It watches the directory.
		RESTART_CONTAINERD=${RESTART_CONTAINERD:-}
	else
		KIND=containerd
		CONFIG=/etc/containerd/config.toml
	fi
	RESTART_CONTAINERD=${RESTART_CONTAINERD-systemctl restart containerd}
	say "this node: $KIND; $CONFIG"
}

# Every file that may have our lines, of whatever the node was before.
known_files() {
	echo /etc/containerd/config.toml /etc/k0s/containerd.d/krun.toml $MICROK8S/containerd-template.toml
	for one in k3s rke2; do
		for name in config.toml config-v3.toml; do
			echo $RANCHER/$one/agent/etc/containerd/$name.tmpl $RANCHER/$one/agent/etc/containerd/$name.d/krun.toml
		done
	done
}
