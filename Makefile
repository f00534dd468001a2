# The one entry for people and for CI. `make help` lists what there is.

CARGO ?= cargo
DEV ?= $(CURDIR)/dev
PACKAGES = build-essential pkg-config libtss2-dev swtpm swtpm-tools tpm2-tools curl jq openssl python3 python3-venv python3-pip
# Node, Go and Java by whatever way they were installed; Debian's where there is none.
TEST_PACKAGES = $(PACKAGES) systemd util-linux e2fsprogs $(if $(shell command -v npm),,nodejs npm)
# By whatever way they were installed; Go 1.24 or later and Rust 1.88 or later are asked for by the clients themselves.
CLIENT_PACKAGES = $(if $(shell command -v go),,golang-go) $(if $(shell command -v mvn),,maven default-jdk-headless)

.PHONY: help deps test-deps build demo run test lint test-clients leaks bench bench-spire fuzz deb rpm check-packages test-packages test-vm deny clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install the system packages that building needs (as root, or by sudo)
	@scripts/install-packages $(PACKAGES)

test-deps: ## and those that the tests need
	@scripts/install-packages $(TEST_PACKAGES)

build: deps ## build both programs
	$(CARGO) build --locked

demo: build ## the main job, on an embedded software TPM: a token for an agent, nothing for a stranger, the record
	@scripts/demo

run: build ## leave a development host running in ./dev, and print the line of curl to try
	target/debug/hostbadged --dev $(DEV)

lint: ## format and clippy, warnings as errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

test: test-deps lint ## everything that must hold: format, clippy, unit and integration tests on a real software TPM
	$(CARGO) test --locked

test-clients: test-deps ## SPIFFE's clients of Go, Rust and Java as they are (needs Go 1.24 and Rust 1.88)
	@scripts/install-packages $(CLIENT_PACKAGES)
	$(CARGO) test --locked --test workload_clients -- --ignored

leaks: deps ## ten thousand TPM operations leave nothing in the TPM (a minute or two)
	$(CARGO) test --locked --test tpm_room -- --ignored --exact nothing_is_left_in_the_tpm_after_ten_thousand_operations

bench: deps ## what a token costs in memory, and what the TPM costs beside tpm2-tools
	$(CARGO) bench --locked --bench tokens
	$(CARGO) bench --locked --bench workload
	$(CARGO) bench --locked --bench tpm

bench-spire: deps ## the Workload API beside SPIRE's own agent, the same client driving both (needs Go 1.26.6)
	@scripts/bench-spire $(ROUNDS)

fuzz: deps ## feed hostile bytes to what parses them, SECONDS=60 for each target
	@scripts/fuzz $(or $(SECONDS),60)

deb rpm: deps ## build the package into target/package
	@scripts/package $@

check-packages: test-deps deb rpm ## what the packages hold, what lintian and systemd say of it
	@scripts/install-packages lintian rpm
	@scripts/check-packages

test-packages: check-packages ## the same, and that a second build from nothing gives the same bytes
	@scripts/check-packages --twice

test-vm: deps deb rpm ## the packages on real Debians with a TPM, systemd and journald, in virtual machines (as root)
	@scripts/install-packages qemu-system-x86 qemu-utils swtpm swtpm-tools mmdebstrap e2fsprogs
	@tests/vm/run $(VM) target/package/hostbadge_*.deb target/package/hostbadge-*.rpm docs/guide/*.md

deny: ## bans, licences and sources of the dependencies
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check bans licenses sources

clean: ## remove what was built, and the development host
	$(CARGO) clean
	rm -rf $(DEV)
