# Each target is a plain command. make run and make test install what they need.

GO      ?= go
MODULE  := /usr/lib/softhsm/libsofthsm2.so
TIMEOUT := 9m
K6_VERSION := v1.8.1
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: all build run test check race fuzz bench load deps clean

all: build

build: ## build bin/keyway
	CGO_ENABLED=1 $(GO) build -trimpath -o bin/keyway ./cmd/keyway

run: deps build ## bring everything up in ./.dev and serve until Ctrl-C
	bin/keyway dev --dir ./.dev

test: deps ## every test; on Debian the tests with real tokens may not be skipped
	@if [ -e $(MODULE) ]; then export REQUIRE_SOFTHSM=1; fi; \
	if [ -e /usr/lib/x86_64-linux-gnu/libsoftokn3.so ]; then export REQUIRE_NSS=1; fi; \
	$(GO) test -timeout $(TIMEOUT) ./...

check: deps ## format, vet, static analysis, import order
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "not formatted (run gofmt -w):"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) test -run '^TestArchitecture' .

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

load: deps build bin/k6 ## a short load test against a keyway dev of its own
	$(GO) run ./loadtest/load -keyway bin/keyway -k6 bin/k6

bin/k6: ## the load generator, built once from its module; make clean removes it
	@echo "Building k6 $(K6_VERSION), which takes a few minutes the first time"
	GOBIN=$(CURDIR)/bin $(GO) install go.k6.io/k6@$(K6_VERSION)

deps: ## what the system must have: a C compiler, SoftHSM 2, NSS, openssl, curl
	@deploy/deps.sh

clean:
	rm -rf bin
