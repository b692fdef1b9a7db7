#!/usr/bin/env bash
# deps.sh: build the Consul that the tests run, once per user, from the Go module
# proxy. test/deps.sh calls it.
#
# 1.12 is the newest one of which all modules are there, and its licence (MPL 2.0)
# is free. Its own go.mod takes two of them from folders that the module does not
# hold; the copy that is built takes published versions in place of these.
set -euo pipefail

version=v1.12.9 # as internal/testserver/consul.go has it
case $(uname) in
  Darwin) cache=$HOME/Library/Caches ;;
  *) cache=${XDG_CACHE_HOME:-$HOME/.cache} ;;
esac
program=$cache/proa-test/consul-$version
if [ -x "$program" ]; then
  echo "test-deps: consul $version is there"
  exit
fi
echo "test-deps: building consul $version, which takes some minutes"
mkdir -p "$cache/proa-test"
scratch=$(mktemp -d "$cache/proa-test/build-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
export GOFLAGS=-mod=mod GOWORK=off
cd "$scratch"
if source=$(go mod download -json "github.com/hashicorp/consul@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p') && [ -n "$source" ] &&
  cp -r "$source" consul && chmod -R u+w consul && cd consul &&
  go mod edit -dropreplace github.com/hashicorp/consul/api -require github.com/hashicorp/consul/api@v1.15.3 \
    -dropreplace github.com/hashicorp/consul/sdk -require github.com/hashicorp/consul/sdk@v0.13.1 &&
  go build -o "$program.new" . 2>"$scratch/log"; then
  mv "$program.new" "$program"
  exit
fi
echo "test-deps: consul cannot be built; its tests will be skipped" >&2
tail -5 "$scratch/log" >&2 || true
if [ "${CI:-}" ] && [ "$CI" != false ] && [ "$CI" != 0 ] && [ "$CI" != no ]; then exit 1; fi
