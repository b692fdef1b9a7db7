#!/usr/bin/env bash
# run.sh: all tests, as CI runs them. Servers are started by the tests
# themselves; test/deps.sh has installed what they need.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOFLAGS="${GOFLAGS:-} -buildvcs=false"
export CI="${CI:-true}" # where a server cannot be had a test fails, it does not skip

api/check.sh
go run ./internal/gendoc --check
go build ./...
go test -race -timeout 20m ./...
# What is counted in allocations: under the race detector pools forget.
go test -run 'Alloc|Memory|Idle' ./block/... ./dialect/dapr/... ./mesh/... ./telemetry
(cd test/interop/gosdk && go vet ./...) # a module of its own; test/interop builds and runs it
