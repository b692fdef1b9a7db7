#!/usr/bin/env bash
# deps.sh: install Azurite, which stands in for Azure Storage in tests, from the
# npm registry. test/deps.sh calls it.
#
#   deps.sh [install]    install what is missing; without the word, forgive a
#                        failure outside continuous integration
#   deps.sh where        print the folder of its node_modules, or say what is
#                        missing and exit 1
#
# It goes to a cache outside the repository, one folder for each state of
# package-lock.json, so that a second run has nothing to do and needs no network:
#
#   ${XDG_CACHE_HOME:-~/.cache}/proa-test/azurite-HASH/node_modules
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/proa-test
folder=$cache/azurite-$(git hash-object --stdin <"$here/package-lock.json" | cut -c1-12)

fail() {
  echo "azurite: $*" >&2
  exit 1
}

install() {
  if [ -d "$folder" ]; then return; fi
  command -v node >/dev/null && command -v npm >/dev/null || fail "needs Node.js 18 or later and npm (Debian: apt-get install nodejs npm)"
  echo "azurite: installing Azurite"
  local building log
  building=$(mktemp -d "$cache/building-XXXXXX")
  log=$(mktemp)
  # shellcheck disable=SC2064 # the folder is known now
  trap "rm -rf '$building' '$log'" EXIT
  cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$building"
  if ! npm --prefix "$building" ci --ignore-scripts >"$log" 2>&1; then
    cat "$log" >&2
    fail "npm could not install it"
  fi
  mv "$building" "$folder"
}

# one_at_a_time keeps two runs from installing the same thing.
one_at_a_time() {
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  if command -v flock >/dev/null; then flock 9; fi
}

case "${1:-}" in
install)
  one_at_a_time
  install
  ;;
where)
  [ -d "$folder" ] || fail "Azurite is not installed; run make test-deps"
  echo "$folder"
  ;;
"")
  if "$here/deps.sh" install; then
    echo "azurite: Azurite is there"
  else
    case "${CI:-}" in "" | 0 | false | no) ;; *) exit 1 ;; esac
  fi
  ;;
*) fail "usage: deps.sh [install], or deps.sh where" ;;
esac
