# The entry point for developers and for CI. `make help` lists the targets.

CARGO ?= cargo
DEV ?= $(CURDIR)/dev
# Where Cargo builds; CARGO_TARGET_DIR moves it.
TARGET = $(or $(CARGO_TARGET_DIR),target)
PACKAGES = build-essential pkg-config libtss2-dev swtpm swtpm-tools tpm2-tools curl jq openssl \
	python3 python3-venv python3-pip
# Debian's Node, Go, Maven and Chromium are installed only where there are none; the clients check for Go 1.25 and Rust
# 1.89.
TEST_PACKAGES = $(PACKAGES) systemd util-linux e2fsprogs faketime tzdata strace $(if $(shell command -v npm),,nodejs npm)
# Tests wait for daemons and timers more than they compute: three at a time for each processor.
TEST_THREADS ?= $(shell echo $$(($$(nproc) * 3)))
CLIENT_PACKAGES = $(if $(shell command -v go),,golang-go) \
	$(if $(shell command -v mvn),,maven default-jdk-headless) $(if $(shell command -v chromium),,chromium)

.PHONY: help deps test-deps build demo run test lint doc test-clients test-harnesses test-keycloak soak leaks bench bench-spire attack fuzz deb rpm \
	deb-before check-packages test-packages test-vm deny clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install the system packages that a build needs (as root, or by sudo)
	@scripts/install-packages $(PACKAGES)

test-deps: ## install the system packages that the tests need (as root, or by sudo)
	@scripts/install-packages $(TEST_PACKAGES)

build: deps ## build both programs
	$(CARGO) build --locked

demo: build ## show tokens, a denied caller and the audit log on a temporary host with a software TPM
	@scripts/demo

run: build ## run a development host in ./dev until Ctrl-C; it prints a curl command to try
	$(TARGET)/debug/hostbadged --dev $(DEV)

lint: ## check the format and the lock file of fuzz/, and run clippy with warnings as errors
	$(CARGO) fmt --check
	@$(CARGO) metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	$(CARGO) clippy --locked --all-targets -- -D warnings

doc: ## build the crate's documentation with warnings as errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --lib

test: test-deps lint doc ## run lint, doc, unit tests, and integration tests on software TPMs
	RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --locked

test-clients: test-deps ## test SPIFFE clients, relying parties in Go, Rust, Java and Node, transparency logs, Envoy, OpenBao, moto, oidc-provider, the conformance suite of MCP and the page of a review in Chromium (needs Go 1.25 and Rust 1.89)
	@scripts/install-packages $(CLIENT_PACKAGES)
	RUST_TEST_THREADS=4 $(CARGO) test --locked --test integration -- --ignored workload_clients:: relying_parties:: relying_servers:: audit_clients:: review_page:: sigv4:: examples:: proof_servers::oidc proof_servers::mcp

test-harnesses: test-deps ## test Claude Code, Codex, the OpenAI Agents SDK, LangGraph and CrewAI with a stub of a model (installs 2 GB)
	@scripts/install-packages $(CLIENT_PACKAGES)
	$(CARGO) test --locked --test integration -- --ignored harnesses::

test-keycloak: test-deps ## test proofs and assertions with a real Keycloak (needs Maven, 180 MB from Maven Central and 2 GB of memory)
	@scripts/install-packages $(CLIENT_PACKAGES) unzip
	$(CARGO) test --locked --test integration -- --ignored proof_servers::keycloak

soak: test-deps ## rotate every key once a second for SECONDS (default: 60) while 50 clients mint and verify
	HOSTBADGE_SOAK_SECONDS=$(or $(SECONDS),60) \
		$(CARGO) test --locked --test integration -- --ignored --nocapture rotation_load::soak

leaks: deps ## check that 10,000 TPM operations leave no object or session in the TPM (1 to 2 minutes)
	$(CARGO) test --locked --test tpm -- --ignored ten_thousand_operations_leave_no_objects_in_the_tpm

bench: deps ## measure the time and memory of tokens, proofs and credentials, the verification of audit logs, and TPM operations beside tpm2-tools
	$(CARGO) bench --locked --bench tokens
	$(CARGO) bench --locked --bench anomalies
	$(CARGO) bench --locked --bench audit_query
	$(CARGO) bench --locked --bench audit_sync
	$(CARGO) bench --locked --bench credentials
	$(CARGO) bench --locked --bench metrics
	$(CARGO) bench --locked --bench proofs
	$(CARGO) bench --locked --bench revocation
	$(CARGO) bench --locked --bench status_lists
	$(CARGO) bench --locked --bench sub_agents
	$(CARGO) bench --locked --bench workload
	$(CARGO) bench --locked --bench tpm
	$(CARGO) bench --locked --bench audit

bench-spire: deps ## measure the Workload API beside SPIRE's agent with one client for both (needs Go 1.26.6)
	@scripts/bench-spire $(ROUNDS)

attack: deps deb ## attack the packaged binaries as another user; compare memory and latency with the limits (25 minutes, as root)
	HOSTBADGE_ATTACK=$(if $(SHORT),short,long) HOSTBADGE_BIN_DIR=$(abspath $(TARGET)/package/build/release) \
		$(CARGO) test --locked --test attack attacks:: -- --ignored --nocapture

fuzz: deps ## fuzz each parser for SECONDS (default: 60)
	@scripts/fuzz $(or $(SECONDS),60)

deb rpm: deps ## build the package into target/package
	@scripts/package $@

check-packages: test-deps deb rpm ## check the files of both packages, and run lintian and systemd-analyze on them
	@scripts/install-packages lintian rpm
	@scripts/check-packages

test-packages: check-packages ## check the packages, and that a second clean build gives the same bytes
	@scripts/check-packages --twice

test-vm: deps deb rpm ## test the packages on Debian in virtual machines with a TPM, systemd and journald (as root)
	@scripts/install-packages qemu-system-x86 qemu-utils swtpm swtpm-tools mmdebstrap e2fsprogs
	@tests/vm/run $(VM) $(TARGET)/package/hostbadge_*.deb $(wildcard $(TARGET)/package/hostbadge-before.deb) \
		$(TARGET)/package/hostbadge-*.rpm docs/guide/*.md examples/pipeline/*.py examples/python/hostbadge.py

deb-before: deps ## build the package of an older COMMIT, from which test-vm upgrades
	@scripts/package-before $(COMMIT)

deny: ## check the dependencies' licences, sources and bans
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check bans licenses sources

clean: ## remove the build and the development host
	$(CARGO) clean
	rm -rf $(DEV)
