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
for module in test/interop/gosdk; do
  if [ -f "$module/go.mod" ]; then (cd "$module" && go vet ./... && go test -timeout 10m ./...); fi
done
