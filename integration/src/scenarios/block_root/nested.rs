//! Containers in a container whose root is a file system of its own, as with blockfile: what makes layers in it has its overlays there.

use super::snapshotters::set_up;
use crate::ctx::{BUSYBOX, Ctx, containerd_version};
use crate::scenario::Outcome;
use anyhow::{Result, ensure};

/// What a cgroup of version 2 asks of who makes more below it: no process in the one above. And what the box's programs need in an
/// image of busybox alone.
const PREPARE: &str = "set -e; ln -s usr/lib /lib; ln -s usr/lib64 /lib64; mkdir -p /run /tmp
    mount -t cgroup2 none /sys/fs/cgroup; mkdir /sys/fs/cgroup/init; for pid in $(cat /sys/fs/cgroup/cgroup.procs); do echo $pid >/sys/fs/cgroup/init/cgroup.procs; done
    echo '+cpu +memory +pids' >/sys/fs/cgroup/cgroup.subtree_control
    until_answers() { n=0; until \"$@\" >/dev/null 2>&1; do n=$((n+1)); [ $n -lt 600 ] || { cat /run/log; exit 1; }; sleep 0.1; done; }
    inner='mount | grep -o \"^overlay on / type overlay\"; echo written >/new; cat /new; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/default/inner/memory.max 2>/dev/null; true'
";

/// containerd and runc.
const CONTAINERD: &str = "printf 'version = 2\\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\\n' >/run/config.toml
    containerd --config /run/config.toml >/run/log 2>&1 & until_answers ctr version
    ctr images import /work/busybox.tar >/run/log
    ctr run --rm --snapshotter overlayfs --memory-limit 33554432 --mount type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro localhost/busybox:1 inner sh -c \"$inner\"";

/// Docker, without what changes the network: the packaged kernel lacks what its iptables rules need.
const DOCKER: &str =
    "dockerd --iptables=false --ip6tables=false --bridge=none >/run/log 2>&1 & until_answers docker version
    docker load -i /work/busybox.tar >/run/log; docker info -f '{{.Driver}}'
    docker run --rm --network none --memory 32m localhost/busybox:1 sh -c \"$inner\"
    docker run --rm --network host localhost/busybox:1 true";

const INNER: &str = "overlay on / type overlay\nwritten\n33554432";

/// containerd in a container runs one.
pub fn containerd(ctx: &Ctx) -> Result<Outcome> {
    nested(ctx, CONTAINERD, INNER)
}

/// dockerd in a container runs one.
pub fn docker(ctx: &Ctx) -> Result<Outcome> {
    nested(ctx, DOCKER, &format!("overlay2\n{INNER}"))
}

fn nested(ctx: &Ctx, script: &str, expected: &str) -> Result<Outcome> {
    if containerd_version()? < (2, 1) {
        return Ok(Outcome::Skipped("containerd has no erofs snapshotter before 2.1".to_owned()));
    }
    let containerd = set_up(ctx)?;
    let id = &ctx.id("");
    let volume = |path: &str, at: &str| format!("--mount=type=bind,src={path},dst={at},options=rbind:ro");
    let work = ctx.work("").display().to_string();
    let flags = [
        "--snapshotter=blockfile",
        "--privileged",
        "--env=PATH=/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
        &volume("/usr", "/usr"),
        &volume("/opt", "/opt"),
        &volume(&work, "/work"),
    ];
    containerd.run(ctx, &flags, &[BUSYBOX, id, "sleep", "1000"])?;
    let said = containerd.says(id, &format!("{PREPARE}{script}"))?;
    ensure!(said == expected, "{id} says {said:?} and not {expected:?}");
    containerd.remove(id)?;
    containerd.ctr(&["images", "rm", "--sync", BUSYBOX]).run()?.ok()?;
    containerd.stop()?;
    Ok(Outcome::Passed)
}
