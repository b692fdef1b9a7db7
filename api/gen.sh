#!/bin/sh
# Makes the generated code in api/gen anew from the .proto files.
#
#	api/gen.sh           replaces api/gen
#	api/gen.sh DIR       writes the same files into DIR and leaves api/gen alone
#	api/gen.sh baseline  replaces api/baseline.binpb, the image that check.sh
#	                     compares with; do this when a release is made
#
# It needs Go and nothing else: the tools are Go modules, pinned in tools/go.mod
# and go.mod. The first run builds buf, which takes a minute or two.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)

out=
case "${1:-}" in
'' | baseline) ;;
*)
	mkdir -p "$1"
	out=$(cd "$1" && pwd)
	;;
esac
cd "$root"

# The tools must run on this machine, whatever the build is for.
unset GOOS GOARCH
buf() { go tool -modfile=tools/go.mod buf "$@"; }

if [ "${1:-}" = baseline ]; then
	buf build api --exclude-source-info --output api/baseline.binpb
elif [ "$out" ]; then
	buf generate api --template api/buf.gen.yaml --output "$out"
else
	out=$(mktemp -d)
	trap 'rm -rf "$out"' EXIT
	buf generate api --template api/buf.gen.yaml --output "$out"
	# Replaced as a whole, so that the code of a deleted file goes too.
	rm -rf api/gen
	mkdir api/gen
	cp -R "$out"/. api/gen
fi
