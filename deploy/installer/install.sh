#!/bin/sh
# install.sh install|uninstall|stay: puts krun on a node, takes it off again, or does the first, stays until it is told to
# end (SIGTERM), and does the second if the DaemonSet that it belongs to is being removed.
#
# It needs the node's root at $HOST and runs commands on the node by $ON_NODE. Nothing is written that is there already,
# and containerd is restarted only when its configuration changed.
set -eu

HOST=${HOST:-/host}
PAYLOAD=${PAYLOAD:-/krun}
DROP_INS=${DROP_INS:-/installer/containerd}
# What runs a shell's command on the node: in the namespaces of its init.
ON_NODE=${ON_NODE:-nsenter -t 1 -m -u -i -n -p -- /bin/sh -c}
# Seconds that the node's pods in VMs have to end before what runs them is removed, and that a distribution has to make
# containerd's configuration.
PATIENCE=${PATIENCE:-60}
# Exists once everything is installed.
READY=${READY:-/tmp/krun-installed}

LABEL=io.containerd.krun/installed
BEGIN='# krun: begin, written by its installer'
END='# krun: end'
TOKENS=/var/run/secrets/kubernetes.io/serviceaccount

say() {
	echo "krun installer: $*"
}

fail() {
	echo "krun installer: $*" >&2
	exit 1
}

on_node() { # a shell's command
	$ON_NODE "$1"
}

. "${0%/*}/distribution.sh"

# --- files

payload() { # the names of all files, from the root
	(cd "$PAYLOAD" && find . -type f | sed 's/^\.//')
}

copy_files() {
	payload | while read -r name; do
		cmp -s "$PAYLOAD$name" "$HOST$name" && continue
		mkdir -p "$HOST${name%/*}"
		# Renamed into place: what runs of the old one keeps it.
		cp "$PAYLOAD$name" "$HOST$name.krun-new"
		mv "$HOST$name.krun-new" "$HOST$name"
		say "installed $name"
	done
}

# What earlier versions put elsewhere.
FORMER='/usr/local/bin/krun-vmm /usr/local/share/doc/krun/LICENSE /usr/local/share/doc/krun/libkrunfw'

remove_former() {
	for name in $FORMER; do
		rm -f "$HOST$name"
	done
	rmdir "$HOST/usr/local/share/doc/krun" 2>/dev/null || true
}

sandboxes() { # directories of VMs that run for somebody
	find "$HOST/run/krun" -mindepth 1 -maxdepth 1 -type d ! -name ctl ! -name 'waiting-*' 2>/dev/null
}

remove_files() {
	payload | while read -r name; do
		rm -f "$HOST$name"
		case "$name" in
		*/krun/* | */containerd-shim-krun/*) rmdir "$HOST${name%/*}" 2>/dev/null || true ;; # ours, once it is empty
		esac
	done
}

# --- containerd's configuration
#
# On a plain node the drop-in becomes a block of config.toml and is not named in `imports`: containerd 1.7 lets an imported file
# replace the CRI plugin's whole configuration.

without_block() { # a file as it is without our lines; nothing, if there is nothing else but what we begin a file with
	[ -e "$1" ] || return 0
	text=$(sed "/^$BEGIN\$/,/^$END\$/d" "$1")
	if grep -q "^$BEGIN\$" "$1"; then
		case "$1: $text" in
		*'.tmpl: {{ template "base" . }}' | *'/krun.toml: version = '[0-9]) return 0 ;;
		esac
	fi
	[ -z "$text" ] || sed "/^$BEGIN\$/,/^$END\$/d" "$1"
}

drop_in() { # that of the version in which the rest, the file $1, is written; every containerd reads 2
	[ -s "$1" ] || [ -n "$VERSION" ] || [ -n "$TEMPLATE" ] || {
		sed '/^#/d' "$DROP_INS/krun-1.7.toml"
		default_runtime
		return
	}
	version=${VERSION:-$(version_of "$1")}
	case "$version" in
	2)
		sed '/^#/d; /^version/d' "$DROP_INS/krun-1.7.toml" | with_path
		# k3s and the others name one in what we add to.
		[ "$KIND" != containerd ] || grep -q 'containerd\.runtimes\.' "$1" || default_runtime
		;;
	3 | 4) sed '/^#/d; /^version/d' "$DROP_INS/krun-2.toml" | with_path ;;
	*) fail "$CONFIG says version = ${version:-nothing}; what is known is 2 (containerd 1.6, 1.7), 3 (2.x) and 4 (from 2.3)" ;;
	esac
}

with_path() { # distributions give their containerd a PATH of their own
	case "$KIND" in
	containerd) cat ;;
	*) sed 's,^\( *\)runtime_type = .*,&\n\1runtime_path = "/usr/local/bin/containerd-shim-krun-v2",' ;;
	esac
}

default_runtime() { # containerd 1.6 and 1.7 have it by themselves only where the configuration names no runtime
	echo
	echo '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]'
	echo '  runtime_type = "io.containerd.runc.v2"'
}

configure() {
	forget_others
	rest=$(mktemp)
	without_block "$HOST$CONFIG" >"$rest"
	if grep -q 'runtimes\.["'\'']\{0,1\}krun["'\'']\{0,1\}\]' "$rest"; then
		say "$CONFIG knows a runtime krun already; it is left as it is"
	elif [ "$STYLE" = file ] && [ -s "$rest" ]; then
		rm "$rest"
		fail "$CONFIG is there, and not ours: rename it, or put the runtime krun into it"
	else
		block=$(drop_in "$rest") || exit 1
		[ -s "$rest" ] || [ -z "$TEMPLATE" ] || echo "$TEMPLATE" >"$rest"
		[ "$STYLE" = block ] || echo "version = $VERSION" >"$rest"
		printf '%s\n' "$BEGIN" "$block" "$END" | cat "$rest" - >"$rest.new"
		replace_config "$rest.new"
		rm "$rest.new"
	fi
	rm "$rest"
}

unconfigure() {
	forget_others
	rest=$(mktemp)
	without_block "$HOST$CONFIG" >"$rest"
	replace_config "$rest"
	rm "$rest"
}

forget_others() { # what an earlier version of the node's distribution, or another one, had of us
	for other in $(known_files); do
		[ "$other" != "$CONFIG" ] && grep -qs "^$BEGIN\$" "$HOST$other" || continue
		kept=$(mktemp)
		without_block "$HOST$other" >"$kept"
		if [ -s "$kept" ]; then cat "$kept" >"$HOST$other"; else rm "$HOST$other"; fi
		rm "$kept"
		say "took our lines out of $other"
	done
}

replace_config() { # the file with the new text; an empty one means none
	here=$HOST$CONFIG
	if [ -e "$here" ]; then cmp -s "$1" "$here" && return; else [ -s "$1" ] || return 0; fi
	before=$(mktemp)
	[ ! -e "$here" ] || cp -p "$here" "$before"
	if [ -s "$1" ]; then
		mkdir -p "${here%/*}"
		[ ! -e "$here" ] || cp -p "$here" "$here.krun-new" # for its owner and mode
		cat "$1" >"$here.krun-new"
		[ "$KIND" != containerd ] || is_understood "$here"
		mv "$here.krun-new" "$here"
	else
		rm "$here"
	fi
	restart || back "\`$RESTART_CONTAINERD\` failed with the new $CONFIG"
	! grep -q "^$BEGIN\$" "$1" || appears || back "$RESULT, which $KIND makes of $CONFIG, has got no runtime krun"
	rm "$before"
	say "changed $CONFIG${RESTART_CONTAINERD:+ and restarted containerd}"
}

restart() {
	[ -z "$RESTART_CONTAINERD" ] || on_node "$RESTART_CONTAINERD"
}

appears() { # the runtime, in what another program makes, which may come after the restart
	[ -n "$RESULT" ] || return 0
	since=$(date +%s)
	until grep -q 'runtimes.*krun' "$HOST$RESULT"; do
		[ $(($(date +%s) - since)) -lt "$PATIENCE" ] || return 1
		sleep 1
	done
}

back() { # why: has the old file again
	if [ -s "$before" ]; then cp -p "$before" "$here"; else rm -f "$here"; fi
	restart || true
	fail "$1; the old one is back"
}

is_understood() { # the file's new text, by the node's containerd
	understood=$(on_node "containerd --config $CONFIG.krun-new config dump") || {
		rm "$1.krun-new"
		fail "containerd does not understand what $CONFIG would be; nothing of it was changed"
	}
	default=$(echo "$understood" | sed -n "s/^ *default_runtime_name *= *[\"']\([^\"']*\)[\"'].*/\1/p" | head -n 1)
	[ -z "$default" ] || echo "$understood" | grep -q "runtimes\.[\"']\{0,1\}$default" || {
		rm "$1.krun-new"
		fail "containerd would not know its default runtime $default with what $CONFIG would be; nothing of it was changed"
	}
}

# --- the API server

api() { # method, path, what to send: prints the answer, its status last
	case "$KUBERNETES_SERVICE_HOST" in
	*:*) server="[$KUBERNETES_SERVICE_HOST]" ;;
	*) server=$KUBERNETES_SERVICE_HOST ;;
	esac
	curl --silent --show-error --max-time 30 --retry 5 --retry-connrefused --cacert "$TOKENS/ca.crt" \
		--header "Authorization: Bearer $(cat "$TOKENS/token")" --header 'Content-Type: application/merge-patch+json' \
		--request "$1" ${3:+--data "$3"} --write-out '\n%{http_code}' \
		"https://$server:${KUBERNETES_SERVICE_PORT:-443}$2"
}

label() { # the label's value in JSON; without a cluster there is nothing to do
	[ -n "${KUBERNETES_SERVICE_HOST:-}" ] || return 0
	answer=$(api PATCH "/api/v1/nodes/$NODE_NAME" "{\"metadata\":{\"labels\":{\"$LABEL\":$1}}}") || return 1
	case "$answer" in
	*'
200') say "label $LABEL of node $NODE_NAME: $1" ;;
	*)
		say "the API server would not set label $LABEL of node $NODE_NAME to $1: $answer" >&2
		return 1
		;;
	esac
}

removed() { # whether the DaemonSet goes; when nobody can tell, it does not
	answer=$(api GET "/apis/apps/v1/namespaces/$NAMESPACE/daemonsets/$DAEMONSET") || return 1
	case "$answer" in
	*'
200') case "$answer" in *'"deletionTimestamp"'*) return 0 ;; *) return 1 ;; esac ;;
	*'
401' | *'
403' | *'
404') return 0 ;; # it is gone, or what gave us the right to ask
	*) return 1 ;;
	esac
}

# --- what can be asked for

install() {
	find_distribution
	copy_files
	remove_former
	# Says what is missing: KVM, libraries as new as these programs need.
	on_node '/usr/local/bin/krunctl check --node' || {
		[ -e "$HOST/run/krun" ] || remove_files
		fail "this node cannot run microVMs; the reason stands above"
	}
	configure
	label '"true"' || fail "krun is installed, but no pod will come: the node has no label"
	touch "$READY"
	say "installed"
}

uninstall() {
	find_distribution
	rm -f "$READY"
	label null || say "take it off by hand: kubectl label node $NODE_NAME $LABEL-"
	since=$(date +%s)
	while [ -n "$(sandboxes)" ]; do
		[ $(($(date +%s) - since)) -lt "$PATIENCE" ] || {
			say "pods still run in VMs here; they lose what cleans up after them" >&2
			break
		}
		sleep 1
	done
	unconfigure
	remove_files
	remove_former
	rm -f "$HOST/run/krun/metrics.sock" "$HOST/run/krun/metrics.lock"
	rmdir "$HOST/run/krun" 2>/dev/null || true
	say "uninstalled"
}

stay() {
	install
	trap 'told=yes' TERM
	told=
	until [ -n "$told" ]; do
		sleep 86400 &
		wait $! || true
	done
	trap '' TERM # the kubelet says it again once containerd is back
	kill $! 2>/dev/null || true
	removed || {
		say "ending; what is installed stays"
		return
	}
	# In a new shell: one of busybox 1.38 that has heard a signal reads for ever in a pipe.
	exec "$0" uninstall
}

case "${1:-}" in
install | uninstall | stay) "$1" ;;
*) fail "say install, uninstall or stay" ;;
esac
