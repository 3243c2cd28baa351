# Builds, tests and shows containerd-shim-krun-v2. `make help` lists the targets.
SHELL := /bin/bash
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/krun-shim
# Whoever sets it looks after it.
ifndef CARGO_TARGET_DIR
SHARED_TARGET := yes
endif
export CARGO_TARGET_DIR ?= $(CACHE)/target

# How the binaries are built: `release` is what is shipped, `box` links in seconds for trying a change in a box.
export PROFILE ?= release

# guest-init and hostile-init run in a guest that has no libraries, and runtimetest in any container: they are linked
# statically, libseccomp included.
STATIC := LIBSECCOMP_LINK_TYPE=static LIBSECCOMP_LIB_PATH=/usr/lib/x86_64-linux-gnu \
	RUSTFLAGS="-C target-feature=+crt-static"

# What is built here, as against what is fetched.
PACKAGES := $(addprefix -p ,shim vmm krunctl vm-launcher private-network guest-init guest-protocol linux integration runtimetest hostile-init hostile-vmm images fuzz-targets)

.PHONY: help deps own-cache build check dev fuzz test test-full test-critest test-kubernetes test-package demo bench dist clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

deps: ## install what building and testing need and this Debian machine lacks
	@hack/deps

# Cargo goes by times: a clone would take what another one, made later or earlier, has built into the same cache.
own-cache:
ifdef SHARED_TARGET
	@mkdir -p $(CARGO_TARGET_DIR)
	@[ "$$(cat $(CARGO_TARGET_DIR)/clone 2>/dev/null)" = "$(CURDIR)" ] || { cargo clean -q $(PACKAGES) && \
		cargo clean -q --release $(PACKAGES) && \
		cargo clean -q --profile box $(PACKAGES) && cargo clean -q --release --target x86_64-unknown-linux-gnu $(PACKAGES) && \
		cargo clean -q --profile box --target x86_64-unknown-linux-gnu $(PACKAGES) && \
		echo "$(CURDIR)" >$(CARGO_TARGET_DIR)/clone; }
endif

build: deps own-cache ## the binaries: containerd-shim-krun-v2, krun-vmm, krunctl, krun-scenarios, for tests containerd-shim-krunfp-v2, krunctlfp, krun-hostile-vmm and the examples, and the static guest-init, krun-runtimetest and krun-hostile-init
	cargo build --profile $(PROFILE) -p shim -p vmm -p krunctl -p integration -p hostile-vmm
	@# The same packages as above: others would have their dependencies built once more, with other features.
	cargo build --profile $(PROFILE) -p shim -p vmm -p krunctl -p integration -p hostile-vmm --features krunctl/failpoints --bin containerd-shim-krunfp-v2 --bin krunctlfp
	$(STATIC) cargo build --profile $(PROFILE) -p guest-init --target x86_64-unknown-linux-gnu
	$(STATIC) cargo build --profile $(PROFILE) -p runtimetest --target x86_64-unknown-linux-gnu
	$(STATIC) cargo build --profile $(PROFILE) -p hostile-init --target x86_64-unknown-linux-gnu
	@# As `check` builds them: nobody ships them, and then there is nothing left to build.
	cargo build --workspace --examples

check: own-cache ## format, lints and every test, with Rust and a C compiler; installs nothing, and needs no root
	@hack/check

dev: ## make dev NAME=stdin: builds quickly, puts that into the box named dev, runs the scenarios with such names there
	@PROFILE=box hack/dev "$(NAME)"

fuzz: ## every fuzz target for ten minutes, with cargo-fuzz; `hack/fuzz SECONDS TARGET` for one
	@hack/fuzz

test: deps check build ## check, then the scenarios in boxes with containerd 2.1, 2.3, 1.7 and 1.6
	hack/test-box

test-full: deps check build ## test, but every scenario with every containerd
	hack/test-box --full

test-critest: build ## critest against the CRI of a box's containerd, with runc and with krun; a table of both
	hack/test-critest --out docs/critest.md

test-kubernetes: build ## deploy/ and pods on a real kubelet, with krun and with runc; outside of test, and takes hours
	hack/test-kubernetes

test-package: ## what `make dist` made: installed, used, upgraded and purged in a box
	hack/test-package

demo: ## a container in a microVM, from nothing, on a fresh Debian machine
	hack/demo

bench: build ## time and memory, runc and krun side by side, on a clock that counts instructions
	hack/bench

dist: deps ## Debian's package, an RPM, a tarball, bills of materials, checksums: build/dist
	@hack/dist

clean: ## end all boxes and remove the cache with everything that was built
	hack/box clean
