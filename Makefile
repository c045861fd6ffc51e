# Each target is a plain command; make run and make test install what they need. `make help` lists them.

GO      ?= go
MODULE  := /usr/lib/softhsm/libsofthsm2.so
TIMEOUT := 9m
K6_VERSION       := v1.8.1
GOLANGCI_VERSION := v2.15.0
GOVULNCHECK      := golang.org/x/vuln/cmd/govulncheck@v1.9.0
VULN_DATABASE    := https://vuln.go.dev/index/db.json

.PHONY: all help build faulthsm run test test-pure check lint vuln deploy-check race million fuzz bench scale load chaos drill deps clean

all: build

help: ## this list
	@sed -n 's/^\([a-zA-Z0-9_/-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

build: ## build bin/keyway and bin/auditverify
	CGO_ENABLED=1 $(GO) build -trimpath -o bin/keyway ./cmd/keyway
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/auditverify ./cmd/auditverify

faulthsm: deps ## build bin/faulthsm.so, the PKCS#11 module that makes calls fail, and bin/faulthsm-lint
	$(GO) run ./loadtest/faulthsm/build bin

run: deps build ## bring everything up in ./.dev and serve until Ctrl-C
	bin/keyway dev --dir ./.dev

test: deps ## every test; on Debian the tests with real tokens and PostgreSQL may not be skipped
	@if [ -e $(MODULE) ]; then export REQUIRE_SOFTHSM=1; fi; \
	if [ -e /usr/lib/x86_64-linux-gnu/libsoftokn3.so ]; then export REQUIRE_NSS=1; fi; \
	if ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then export REQUIRE_POSTGRES=1; fi; \
	$(GO) test -timeout $(TIMEOUT) ./...

test-pure: ## build and test without cgo: everything but PKCS#11 libraries
	CGO_ENABLED=0 $(GO) build ./...
	CGO_ENABLED=0 $(GO) test -timeout $(TIMEOUT) ./...

check: deps lint vuln deploy-check ## format, vet, static analysis, import order, docs, deploy files, vulnerabilities

lint: .cache/golangci-lint-$(GOLANGCI_VERSION) ## the part of check that reads Go code and docs
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "not formatted (run gofmt -w):"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$< run ./...
	$(GO) test -run '^Test(Architecture|Dependencies|Docs)' .

.cache/golangci-lint-$(GOLANGCI_VERSION): # built once from its module; staticcheck is in it
	@echo "Building golangci-lint $(GOLANGCI_VERSION), which takes a few minutes the first time"
	@mkdir -p .cache
	@GOBIN=$(CURDIR)/.cache $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv .cache/golangci-lint $@

vuln: ## known vulnerabilities, where their database can be reached
	@if curl -fsS -o /dev/null --max-time 10 $(VULN_DATABASE) 2>/dev/null; then \
	  $(GO) run $(GOVULNCHECK) ./...; \
	else echo "vulnerabilities: NOT CHECKED, $(VULN_DATABASE) cannot be reached from here"; fi

deploy-check: build ## configurations, systemd unit, compose file, alerts, dashboard; says what it leaves out
	@deploy/check.sh

million: deps ## a million keys in the store: pages of the list, first requests for cold keys, memory
	KEYWAY_KEYS=1000000 $(GO) test -count=1 -v -timeout 30m -run '^TestManyKeys$$' ./cmd/keyway

race: deps ## every test with the race detector
	$(GO) test -race -timeout 30m ./...

FUZZ_TIME ?= 20s
fuzz: ## each fuzz target for FUZZ_TIME
	@for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p 2>/dev/null | grep '^Fuzz'); do \
	    echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZ_TIME) $$p || exit 1; \
	  done; done

bench: deps build ## side by side: raw PKCS#11, pool, pool with workers, HTTP
	$(GO) run ./loadtest/bench -keyway bin/keyway

scale: deps build ## members with a service time, few handles, many connections, a greedy client, a busy device; JSON in bin/scale.json
	$(GO) run ./loadtest/bench -scale -keyway bin/keyway -json bin/scale.json

load: deps build bin/k6 ## a short load test against a keyway dev of its own
	$(GO) run ./loadtest/load -keyway bin/keyway -k6 bin/k6

CHAOS_TIME ?= 10m
CHAOS_RATE ?= 300
CHAOS_SEED ?= 0
CHAOS_ARGS ?=
chaos: deps build ## break tokens for CHAOS_TIME while requests flow, and check every answer; report in bin/chaos.html
	$(GO) run ./loadtest/chaos -keyway bin/keyway -time $(CHAOS_TIME) -rate $(CHAOS_RATE) -seed $(CHAOS_SEED) $(CHAOS_ARGS) -html bin/chaos.html -json bin/chaos.json

drill: deps build ## what the pool promises on bad days, measured; JSON in bin/drill.json
	$(GO) run ./loadtest/drill -keyway bin/keyway -json bin/drill.json

bin/k6: ## the load generator, built once from its module; make clean removes it
	@echo "Building k6 $(K6_VERSION), which takes a few minutes the first time"
	GOBIN=$(CURDIR)/bin $(GO) install go.k6.io/k6@$(K6_VERSION)

deps: ## what the system must have: a C compiler, SoftHSM 2, NSS, PostgreSQL, openssl, curl
	@deploy/deps.sh

clean: ## remove what was built
	rm -rf bin .cache
