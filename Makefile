# pinwatch: see README.md. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

GO ?= go
# Everything is built without C, as pinwatch is, but for what the race detector wants: on a
# new machine each package would be compiled for both.
export CGO_ENABLED := 0
# Packages of Debian that a target installs when their command is missing.
QEMU := qemu-system-x86_64:qemu-system-x86
GUEST_TESTS := $(QEMU) zstd:zstd busybox:busybox-static bpftool:bpftool perf:linux-perf strace:strace
CLIENTS := bpftrace:bpftrace
PACKERS := xz:xz-utils zstd:zstd
EXAMPLES := shellcheck:shellcheck git:git
ARM64_TESTS := qemu-system-aarch64:qemu-system-arm
CLANG := clang-19:clang-19 llvm-strip-19:llvm-19 /usr/include/bpf/bpf_helpers.h:libbpf-dev /usr/include/linux/bpf.h:linux-libc-dev
RACE := gcc:gcc /usr/include/stdlib.h:libc6-dev
TERMINAL := tmux:tmux bash:bash pkill:procps
BROWSER := chromium:chromium /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf:fonts-dejavu-core
PROMETHEUS := promtool:prometheus
DEMO_SERIES := 6.1
TEST_SERIES := 5.10 6.1 6.12 newest
ALL_SERIES := 6.1 6.12 6.16 6.17 6.18 6.19 7.0 7.1 7.2 7.3 5.10 arm64/6.12 arm64/6.12-16k arm64/newest
SOAK ?= 1h
# What has tests; ./... leaves testdata out.
PACKAGES := ./... ./testdata/bench ./testdata/ci ./testdata/gotest ./testdata/kernels ./testdata/man
# go test -json is shown by it, a line per test that took a second.
SHOW = $(GO) run ./testdata/gotest

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

.PHONY: build
build: ## build ./pinwatch, one static binary
	testdata/busy.sh "go build" $(GO) build -trimpath -ldflags "-s -w" -o pinwatch .

.PHONY: build-arm64
build-arm64: ## build ./pinwatch-arm64, for guests that are arm64 (pinwatch check, pinwatch guest)
	GOARCH=arm64 $(GO) build -trimpath -ldflags "-s -w" -o pinwatch-arm64 .

.PHONY: dist
dist: ## tarballs, .deb, .rpm and image of the last commit, in dist/: the same bytes each time
	cd testdata/dist && ../busy.sh "make dist" $(GO) run . ../.. ../../dist
	@ls -sh dist

.PHONY: demo
demo: build ## show a correct kernel live (this host's if it can be traced, else in QEMU), and then the bug, recorded
	@if ./pinwatch trace --duration 10ms >/dev/null 2>&1; then \
		echo "== pinwatch trace on this host, Linux $$(uname -r)"; \
		./pinwatch trace -- ./pinwatch workload perf-buffers --quiet --pause 100ms; \
	else \
		testdata/install.sh $(QEMU); \
		image=$$(testdata/kernels/fetch.sh $(DEMO_SERIES) | cut -f3); \
		echo "== this host's kernel cannot be traced (see: ./pinwatch trace)"; \
		echo "== pinwatch trace in QEMU, $$(basename $$image)"; \
		./pinwatch guest --kernel $$image -- trace -- pinwatch workload perf-buffers --quiet --pause 100ms; \
	fi
	@echo; echo "== and the bug: five mappings of 3 pages up to Linux 5.3, as published, replayed"
	@./pinwatch replay testdata/recordings/published-overcharge.jsonl

.PHONY: kernels
kernels: ## fetch Debian's kernels of all series, for the guests
	testdata/kernels/fetch.sh

.PHONY: generate
generate: export BPF2GO_CC := clang-19
generate: export BPF2GO_STRIP := testdata/strip.sh
generate: export BPF2GO_CFLAGS := -O2 -g -Wall -Werror -mcpu=v2 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
generate: ## compile bpf/*.c and make the Go bindings
	testdata/install.sh $(CLANG)
	testdata/busy.sh "go generate" $(GO) generate ./gen.go

.PHONY: test
test: ## everything a change must pass
	@# On a new machine the packages and the kernels take minutes: beside what needs none, and
	@# in a session of their own, which ends as a whole.
	@setsid $(MAKE) --no-print-directory guest-kernels > >(sed -u 's/^/kernels: /') 2>&1 & kernels=$$!; \
	trap 'kill -- -$$kernels 2>/dev/null || :' EXIT; \
	$(MAKE) --no-print-directory check-format check-generated test-unit; \
	wait $$kernels
	@$(MAKE) --no-print-directory test-guest

.PHONY: guest-kernels
guest-kernels:
	testdata/install.sh $(CLANG) $(RACE) $(TERMINAL) $(GUEST_TESTS)
	testdata/kernels/fetch.sh $(TEST_SERIES) >/dev/null
	testdata/known-bad/build.sh >/dev/null

.PHONY: check-format
check-format:
	testdata/install.sh $(RACE)
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt -w $$unformatted"; exit 1; }
	@# With the packages as test-unit compiles them. Tests are not vetted again where they run.
	CGO_ENABLED=1 testdata/busy.sh "go vet" $(GO) vet -race -tags guest,browser,kcidb,prometheus $(PACKAGES)
	testdata/busy.sh "go mod tidy" $(GO) mod tidy -diff

# Tools in a module of their own: what they need is not in go.mod.
LINT := $(GO) tool -modfile=testdata/lint/go.mod

.PHONY: lint
lint: ## staticcheck, and govulncheck where its database can be reached
	testdata/busy.sh "staticcheck" $(LINT) staticcheck -tags guest,browser $(PACKAGES)
	@# Without the database there is no answer: that is said, and is neither fine nor a failure.
	@said=$$(mktemp); trap 'rm -f "$$said"' EXIT; \
	testdata/busy.sh "govulncheck" $(LINT) govulncheck ./... >"$$said" 2>&1 && { cat "$$said"; exit 0; }; \
	cat "$$said"; grep -q "fetching vulnerabilities" "$$said" || exit 1; \
	echo "make lint: NOT CHECKED for known vulnerabilities: the database of govulncheck cannot be reached" >&2

.PHONY: check-generated
check-generated:
	@before=$$(mktemp -d); trap 'rm -rf "$$before"' EXIT; cp -r bpf "$$before"; \
	$(MAKE) --no-print-directory generate; \
	diff -rq "$$before/bpf" bpf || { echo "bpf/ was not in sync with its source: commit what make generate made"; exit 1; }

.PHONY: test-unit
test-unit: ## what needs no kernel
	testdata/install.sh $(RACE) $(TERMINAL) $(PACKERS)
	CGO_ENABLED=1 $(GO) test -json -race -vet=off $(PACKAGES) | $(SHOW)

# The packages that have tests in guests: the others have been tested.
GUEST_PACKAGES = $(sort $(dir $(shell find ./tracer -name '*_guest_test.go' -not -path '*/testdata/*')))

# All packages at once, and of all their guests as many as keep the CPUs busy: one more, for
# they wait now and then.
LIMIT = 40m
IN_GUESTS = slots=$$(mktemp -d); trap 'rm -rf "$$slots"' EXIT; (cd "$$slots"; touch $$(seq 0 $$(nproc))); \
	PINWATCH_GUEST_SLOTS=$$slots \
		$(GO) test -json -vet=off -tags guest -count=1 -p 4 -parallel 4 -timeout $(LIMIT) $(GUEST_PACKAGES) | $(SHOW)

.PHONY: test-guest
test-guest: ## the tracer in guests: 5.10, 6.1, 6.12 and the newest series
	testdata/install.sh $(GUEST_TESTS) $(RACE)
	@$(IN_GUESTS)

.PHONY: test-browser
test-browser: ## the page of pinwatch report in Chromium; PICTURES=DIR keeps what it looks like
	testdata/install.sh $(BROWSER)
	PINWATCH_PICTURES="$(abspath $(PICTURES))" $(GO) test -json -tags browser -count=1 ./output/page | $(SHOW)

.PHONY: test-kcidb
test-kcidb: ## reports for KCIDB by its own schema, which Python's pip installs
	testdata/install.sh pip3:python3-pip
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; pip3 install -q --target "$$tmp" kcidb-io; \
		PYTHONPATH=$$tmp $(GO) test -tags kcidb -count=1 -run KCIDB ./output/report

.PHONY: test-agent
test-agent: ## the metrics, alerts and dashboard of pinwatch agent with Prometheus
	testdata/install.sh $(PROMETHEUS)
	$(GO) test -json -tags prometheus -count=1 ./output/metrics | $(SHOW)

.PHONY: test-kernels
test-kernels: LIMIT = 4h
test-kernels: ## the tracer and the check in guests of every series and of arm64
	testdata/install.sh $(GUEST_TESTS) $(ARM64_TESTS) $(CLIENTS) $(PACKERS) $(RACE)
	@# Compiled before the guests start: beside them it takes three times as long, and so do they.
	testdata/known-bad/build.sh >/dev/null
	testdata/pinners/build.sh >/dev/null
	@table=$$(mktemp); trap 'rm -f "$$table"' EXIT; code=0; export PINWATCH_TABLE=$$table PINWATCH_SERIES="$(ALL_SERIES)"; \
	($(IN_GUESTS)) || code=$$?; cat "$$table"; exit $$code

.PHONY: test-dist
test-dist: ## what make dist makes: reproducible, installed, run and removed in a clean root, and in a guest with systemd
	testdata/install.sh debootstrap:debootstrap rpm:rpm systemd-analyze:systemd cpio:cpio $(QEMU)
	cd testdata/dist && $(GO) vet . && ../busy.sh "make test-dist" $(GO) test -count=1 -timeout 90m .

.PHONY: known-bad-kernel
known-bad-kernel: ## build the module that gives Debian's 6.1 the accounting of the past
	testdata/known-bad/build.sh

.PHONY: soak
soak: ## hours of random mappings in the oldest and the newest series, each traced for SOAK=1h in several ways
	testdata/install.sh $(GUEST_TESTS)
	PINWATCH_SOAK=$(SOAK) PINWATCH_SERIES="5.10 newest" \
		$(GO) test -tags guest -count=1 -parallel 2 -timeout 0 -v -run Soak ./tracer

# What a benchmark guest boots, and what it needs.
BENCH_SERIES := 6.12
BENCH_TOOLS := $(QEMU) busybox:busybox-static bpftrace:bpftrace
BENCH = $(GO) build -trimpath -o $$tmp/bench ./testdata/bench && \
	$$tmp/bench --kernel "$$(testdata/kernels/fetch.sh $(BENCH_SERIES) | cut -f3)"

.PHONY: bench
bench: build ## measure pinwatch against empty probes and bpftrace: testdata/bench/results.md
	testdata/install.sh $(BENCH_TOOLS)
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; $(BENCH) --results testdata/bench/results.md

.PHONY: bench-check
bench-check: build ## fail where pinwatch got more than 20 % slower, or larger, than the baseline
	testdata/install.sh $(BENCH_TOOLS)
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; $(BENCH) --check

.PHONY: bench-baseline
bench-baseline: build ## make what is now the baseline of bench-check
	testdata/install.sh $(BENCH_TOOLS)
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; $(BENCH) --update

.PHONY: clean
clean: ## remove what was built here
	rm -f pinwatch pinwatch-arm64
