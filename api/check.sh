#!/bin/sh
# Checks the .proto files below this folder and what is made from them, and
# changes nothing:
#
#   - they are formatted, and follow the rules in buf.yaml;
#   - they are compatible, on the wire and in JSON, with baseline.binpb, which is
#     the API of the last release;
#   - the code in gen/ is what gen.sh makes of them today.
#
# It runs every check even when one fails, and fails when any does.
set -u
cd "$(dirname "$0")/.." || exit

# The tools must run on this machine, whatever the build is for.
unset GOOS GOARCH

out=$(mktemp -d) || exit
trap 'rm -rf "$out"' EXIT
status=0
buf() { go tool -modfile=tools/go.mod buf "$@"; }
failed() {
	echo "api/check.sh: $*" >&2
	status=1
}

buf format api --diff --exit-code ||
	failed "run: go tool -modfile=tools/go.mod buf format api --write"
buf lint api ||
	failed "the .proto files break a rule in api/buf.yaml"
buf breaking api --against api/baseline.binpb ||
	failed "programs that speak the API of the last release would break"

if api/gen.sh "$out"; then
	git --no-pager diff --no-index --stat --exit-code api/gen "$out" ||
		failed "api/gen is out of date; run: api/gen.sh"
else
	failed "the code could not be generated"
fi
exit $status
