#!/usr/bin/env bash
# check.sh: the fast loop. Everything that needs no server.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOFLAGS="${GOFLAGS:-} -buildvcs=false"

say() { printf '== %s\n' "$*"; }

say gofmt
unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
  echo "not formatted (gofmt -w): $unformatted" >&2
  exit 1
fi
say vet
go vet ./...
say staticcheck
go tool -modfile=tools/go.mod staticcheck ./...
say "api: lint, breaking changes, generated code"
api/check.sh
say "docs: generated reference"
go run ./internal/gendoc --check
say "unit tests"
go test -short -p 4 -timeout 5m ./...
