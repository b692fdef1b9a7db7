# The one entry point. `make help` lists what there is.

SHELL := /bin/bash
GO ?= go
TOOL = $(GO) tool -modfile=tools/go.mod
BIN := bin/proa
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS = -s -w -X main.version=$(VERSION)
# Without gRPC's own trace pages the linker can leave out what nobody calls: a
# third of the binary. See docs/decisions/005-binary-size.md.
TAGS = grpcnotrace

.DEFAULT_GOAL := help
.PHONY: help build demo test check bench soak gen test-deps clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/proa
	CGO_ENABLED=0 $(GO) build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/proa

demo: ## run the shop: three services on the embedded engine (needs Go only)
	@$(MAKE) --no-print-directory build
	@$(GO) run ./examples/shop --proa $(BIN)

test: test-deps ## run all tests, with real servers and real SDKs
	test/run.sh

test-deps: ## install the servers and SDKs that the tests run
	@test/deps.sh

check: ## the fast loop: format, vet, lint, generated code, unit tests
	test/check.sh

bench: build ## measure against nginx, haproxy and direct calls; writes docs/reference/performance.md
	@test/bench/deps.sh
	$(GO) run ./test/bench --proa $(BIN) --out docs/reference/performance.md

SOAK ?= 10m
soak: build ## full load for ten minutes (SOAK=2m for two): fails unless memory, goroutines and files stay flat
	@test/bench/deps.sh
	$(GO) run ./test/bench/soak --proa $(BIN) --duration $(SOAK)

gen: ## regenerate api/gen and docs/reference
	api/gen.sh
	$(GO) run ./internal/gendoc

clean: ## remove what was built
	rm -rf bin dist
