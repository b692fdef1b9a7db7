#!/usr/bin/env bash
# deps.sh: install moto, which stands in for Amazon Web Services in tests, from
# the Python Package Index. test/deps.sh calls it.
#
#   deps.sh [install]    install what is missing; without the word, forgive a
#                        failure outside continuous integration
#   deps.sh where        print the folder of its virtual environment, or say
#                        what is missing and exit 1
#
# It goes to a cache outside the repository, one folder for each state of
# requirements.txt and each Python, so that a second run has nothing to do and
# needs no network:
#
#   ${XDG_CACHE_HOME:-~/.cache}/proa-test/moto-HASH/bin/moto_server
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/proa-test

fail() {
  echo "moto: $*" >&2
  exit 1
}

# A virtual environment belongs to one interpreter.
command -v python3 >/dev/null || fail "needs Python 3.10 or later (Debian: apt-get install python3 python3-venv)"
version=$(python3 -c 'import sys; print(sys.version, sys.base_prefix); sys.exit(sys.version_info < (3, 10))') ||
  fail "needs Python 3.10 or later; this is $version"
folder=$cache/moto-$({ cat "$here/requirements.txt"; echo "$version"; } | git hash-object --stdin | cut -c1-12)

install() {
  if [ -e "$folder/complete" ]; then return; fi
  python3 -c 'import ensurepip, venv' 2>/dev/null || fail "this Python has no venv (Debian: apt-get install python3-venv)"
  echo "moto: installing moto"
  rm -rf "$folder"
  local log
  log=$(mktemp)
  # shellcheck disable=SC2064 # the file is known now
  trap "rm -f '$log'" EXIT
  # A virtual environment cannot be moved: it is marked when it is complete.
  if ! { python3 -m venv "$folder" &&
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --requirement "$here/requirements.txt"; } >"$log" 2>&1; then
    cat "$log" >&2
    fail "pip could not install it"
  fi
  touch "$folder/complete"
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
  [ -e "$folder/complete" ] || fail "moto is not installed; run make test-deps"
  echo "$folder"
  ;;
"")
  if "$here/deps.sh" install; then
    echo "moto: moto is there"
  else
    case "${CI:-}" in "" | 0 | false | no) ;; *) exit 1 ;; esac
  fi
  ;;
*) fail "usage: deps.sh [install], or deps.sh where" ;;
esac
