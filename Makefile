# podwright: `make demo` shows it, `make test` proves it. Both install what they need from Debian and say what they do.

CARGO := deploy/cargo
PROFILE := --profile ci --locked
BENCH_PROFILE ?= release

.DEFAULT_GOAL := help
.PHONY: help demo test critest critest-short crictl streams parity fuzz guest bench bench-quick check build images fmt clippy clean

help: ## Say what each target does
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: ## Run an explained two-container pod on this machine, then leave nothing behind (root)
	@deploy/setup demo
	@$(CARGO) build $(PROFILE) --bin podwright
	@deploy/demo/run "$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/ci/podwright"

test: ## Run every test: units, the map of the house, and nodes with a real containerd (root)
	@deploy/setup test
	@$(CARGO) test $(PROFILE)
	@test "$$(id -u)" = 0 || { echo 'test: FAILED: the integration tests were skipped: they make namespaces and mounts'; \
	  echo '      remedy: run make test as root'; exit 1; }

guest: SUITE ?= bookworm
guest: ## Prove what hangs on systemd, cgroup v2 and AppArmor, in an emulated node (SUITE=bookworm or trixie; FULL=1 for all of critest; SECURITY=selinux)
	@deploy/setup critest
	@tests/guest/lane $(SUITE) $(PROFILE)

bench: ## Measure podwright beside containerd's own CRI plugin, in one run (root)
	@deploy/setup test
	@$(CARGO) bench --profile $(BENCH_PROFILE) --locked --bench bench

bench-quick: ## The same with fewer samples and pods
	@BENCH_QUICK=1 $(MAKE) --no-print-directory bench

critest: ## Run the upstream conformance suite against podwright; critest/README.md tells the knobs (root)
	@deploy/setup critest
	@$(CARGO) build $(PROFILE) --bin podwright
	@critest/run "$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/ci/podwright"

critest-short: ## The same for a dozen specs on containerd 1.6 (root)
	@SHORT=1 CONTAINERD=$${CONTAINERD:-1.6} $(MAKE) --no-print-directory critest

crictl: ## Use every command of crictl, and compare the answers with those of containerd's own CRI plugin (root)
	@deploy/setup critest
	@$(CARGO) build $(PROFILE) --bin podwright
	@critest/crictl "$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/ci/podwright"

streams: ## Have a client of exec, attach and port-forward judge podwright; critest/README.md tells the knobs (root)
	@deploy/setup critest
	@$(CARGO) build $(PROFILE) --bin podwright
	@critest/streams "$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/ci/podwright"

parity: ## Compare what podwright hands to containerd with what containerd's own CRI plugin writes (root)
	@deploy/setup test
	@$(CARGO) test $(PROFILE) --test parity

fuzz: ## Look for inputs that break a parser: FUZZ_SECONDS=60 for each, or FUZZ="reference record" alone
	@fuzz/run $(or $(FUZZ_SECONDS),60) $(FUZZ)

check: ## Compile everything quickly, run nothing
	$(CARGO) check --all-targets --locked

build: ## Build the binary as it is released
	$(CARGO) build --release --locked

images: ## Make the stand-in images in target/images
	deploy/images/build target/images

fmt: ## Format the code
	$(CARGO) fmt

clippy: ## Lint; warnings are errors
	$(CARGO) clippy $(PROFILE) --all-targets -- -D warnings

clean: ## Remove what was built
	$(CARGO) clean
