# Which Kubernetes a node has, and so where the configuration of its containerd is, and how that gets a runtime. Sourced by
# install.sh; a variable that is set already stays, so that a node that is like none of these can be described.
#
# KIND      what it is, for people
# CONFIG    the file that gets our lines, on the node
# STYLE     block: our lines in that file, between two marks; file: a file of our own
# VERSION   of the lines, where the file does not say it
# RESTART_CONTAINERD  the command after a change; empty where containerd's keeper sees it by itself
# RESULT    the configuration that containerd reads, where another program makes it of CONFIG
#
# Sources: docs.k3s.io "Advanced options", docs.rke2.io "Containerd", docs.k0sproject.io "Runtime", microk8s'
# args/containerd-template.toml. kind's nodes are as plain ones.

runs() { # a file of a distribution's, and its units: whether one of these runs, which is then $unit. Files outlive a distribution.
	[ -e "$HOST$1" ] || return
	shift
	for unit; do
		! on_node "systemctl is-active --quiet $unit" || return 0
	done
	return 1
}

version_of() { # a file of containerd's configuration
	sed -n 's/^ *version *= *\([0-9]*\).*/\1/p' "$1" | head -n 1
}

of_rancher() { # k3s and rke2 make containerd's configuration of a template
	KIND=$1
	directory=/var/lib/rancher/$1/agent/etc/containerd
	RESULT=$directory/config.toml
	VERSION=$(version_of "$HOST$RESULT")
	name=config$([ "${VERSION:-2}" = 2 ] || echo -v3).toml
	RESTART_CONTAINERD=${RESTART_CONTAINERD:-systemctl restart $unit}
	# Newer ones read drop-ins, and then no template of ours stands in the way of theirs.
	if sed -n '/^ *imports *=/,/]/p' "$HOST$RESULT" | grep -qF "$directory/$name.d/"; then
		CONFIG=$directory/$name.d/krun.toml
		STYLE=file
		RESULT=
	else
		CONFIG=$directory/$name.tmpl
		STYLE=block
		TEMPLATE='{{ template "base" . }}'
	fi
}

find_distribution() {
	TEMPLATE='' RESULT='' VERSION='' STYLE=block
	if [ -n "${CONFIG:-}" ]; then
		KIND=containerd
	elif runs /var/lib/rancher/rke2/agent/etc/containerd/config.toml rke2-server rke2-agent; then
		of_rancher rke2
	elif runs /var/lib/rancher/k3s/agent/etc/containerd/config.toml k3s k3s-agent; then
		of_rancher k3s
	elif runs /var/snap/microk8s/current/args/containerd-template.toml snap.microk8s.daemon-containerd; then
		KIND=microk8s
		CONFIG=/var/snap/microk8s/current/args/containerd-template.toml
		RESULT=/var/snap/microk8s/current/args/containerd.toml
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
