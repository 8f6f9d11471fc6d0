# Cordon: everything a person or a machine starts by name.
# Each target sets up what it needs; nothing has to be installed by hand but Rust and make.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# Where `make run` keeps its database, socket and places in the logs.
STATE ?= state
# Extra arguments for `cordon run`, for example ARGS=--enforce.
ARGS ?=
# Extra arguments for the soak, for example SOAK="--seed 7 --seconds 60".
SOAK ?=
# How long each fuzz target runs.
FUZZ_SECONDS ?= 60
# How many fuzz targets run at a time.
FUZZ_JOBS ?= 1

target = $$($(CARGO) metadata --format-version 1 --no-deps --offline | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

.PHONY: help
help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

.PHONY: run
run: ## play a recorded attack in a network of its own, then watch this host (dry run until told to enforce)
	@.ci/setup run
	$(CARGO) build --release --locked
	@cordon="$(target)/release/cordon"; \
	if [ "$$(id -u)" = 0 ]; then "$$cordon" demo; fi; \
	exec "$$cordon" run --state "$(STATE)" $(ARGS)

.PHONY: build
build: ## build the optimised binary
	@.ci/setup build
	$(CARGO) build --release --locked

.PHONY: install
install: build ## install the binary, its unit, a configuration if there is none, completions and manual pages (PREFIX, DESTDIR)
	@packaging/install "$(target)/release/cordon"

.PHONY: test
test: ## run every test; as root also the ones in network namespaces, with real servers and CrowdSec's own programs
	@.ci/setup test
	@.ci/setup clients
	@.ci/setup geo
	@# apart, because what expr is compared with in its tests gives JSON maps another order everywhere
	$(CARGO) test --workspace --exclude cordon-expr --locked --no-fail-fast
	$(CARGO) test -p cordon-expr --locked --no-fail-fast

.PHONY: bench
bench: ## speed and memory of the engine, part by part and on large logs, against what it must reach
	@.ci/setup build
	$(CARGO) bench -p cordon-agent --locked
	$(CARGO) build --release --locked
	@"$(target)/release/cordon" bench engine

.PHONY: soak
soak: ## write 20,000 lines a second, rotate 1,000 times, kill it 100 times: every line counts once (SOAK="--seed 7 ...")
	@.ci/setup build
	$(CARGO) test --release --locked --test soak -- --rate 20000 --rotations 1000 --kills 100 --seconds 300 --between 2 $(SOAK)

.PHONY: soak-days
soak-days: ## 14 days of a busy host's log in ten minutes: neither memory nor the cost of a line may grow (SOAK="--days 2 ...")
	@.ci/setup build
	$(CARGO) test --release --locked --test soak -- --days 14 --rate 20000 $(SOAK)

.PHONY: bench-latency
bench-latency: ## from the last attack line to the first dropped packet: p50 and p99 over 200 bans (root)
	@.ci/setup run
	$(CARGO) build --release --locked
	@"$(target)/release/cordon" bench latency

.PHONY: bench-enforce
bench-enforce: ## bans in the kernel: loads of a million, single bans, boot, flushes, packets, CrowdSec's bouncer (root)
	@.ci/setup clients
	$(CARGO) build --release --locked
	@"$(target)/release/cordon" bench enforce

.PHONY: bench-api
bench-api: ## the local API with a million decisions, many agents and many followers
	@.ci/setup build
	$(CARGO) build --release --locked
	@"$(target)/release/cordon" bench api

.PHONY: bench-geo
bench-geo: ## policies over a database of all countries: compiled and loaded within a second each (root)
	@.ci/setup geo
	$(CARGO) build --release --locked
	@"$(target)/release/cordon" bench geo --database "$(target)/geo/country.mmdb"

.PHONY: bench-sources
bench-sources: ## 200,000 syslog messages a second over UDP, every loss counted; memory and processor for 10,000 followed files
	@.ci/setup build
	$(CARGO) build --release --locked
	@"$(target)/release/cordon" bench syslog
	@"$(target)/release/cordon" bench files

.PHONY: openapi
openapi: ## let schemathesis try the API by its own description, as everybody who may ask; EXAMPLES (20) per route
	@.ci/setup openapi
	@tests/openapi/run

.PHONY: fuzz
fuzz: ## feed hostile input to everything that reads outside text, FUZZ_SECONDS each, FUZZ_JOBS at a time
	@.ci/setup fuzz
	@FUZZ_SECONDS="$(FUZZ_SECONDS)" FUZZ_JOBS="$(FUZZ_JOBS)" tests/fuzz/run

.PHONY: lint
lint: ## formatting, clippy and documentation, warnings denied
	@.ci/setup build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

.PHONY: deny
deny: ## licences, sources, duplicates and known vulnerabilities of what we depend on
	@.ci/setup deny
	@.ci/deny

.PHONY: clean-safe
clean-safe: ## remove what runs and tests left behind: the state folder and our network namespaces, never the build
	@answers() { "$(target)/release/cordon" --state "$(STATE)" status >/dev/null 2>&1 || [ $$? = 3 ]; }; \
	if [ -S "$(STATE)/cordon.sock" ] && answers; then \
		echo "cordon is running on $(STATE): stop it first"; exit 1; fi
	rm -rf -- "$(STATE)"
	@if command -v ip >/dev/null && [ "$$(id -u)" = 0 ]; then \
		for ns in $$(ip netns list | awk '/^cordon-/ {print $$1}'); do echo "ip netns delete $$ns"; ip netns delete "$$ns"; done; fi
