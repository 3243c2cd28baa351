"""The test box: a small Debian machine in QEMU whose /dev/kvm works (see hack/box)."""
