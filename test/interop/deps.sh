#!/usr/bin/env bash
# deps.sh: install the Dapr SDKs that the interoperability tests run. test/deps.sh
# calls it.
#
#   deps.sh [js|python|component|go|java]
#                       install what is missing
#   deps.sh where js|python|component|java
#                       print the folder of what is installed, or say what is
#                       missing and exit 1
#
# A component is what the example of one in Python needs.
#
# Everything goes to a cache outside the repository, one folder for each state of
# a lock file, so that a second run has nothing to do and needs no network:
#
#   ${XDG_CACHE_HOME:-~/.cache}/proa-test/js-HASH/node_modules
#   ${XDG_CACHE_HOME:-~/.cache}/proa-test/python-HASH/bin/python
#   ${XDG_CACHE_HOME:-~/.cache}/proa-test/java-HASH/*.jar
#
# The Go SDK goes where Go keeps modules.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/proa-test

fail() {
  echo "interop: $*" >&2
  exit 1
}

# digest prints a short name for what it reads.
digest() { git hash-object --stdin | cut -c1-12; }

js_folder() { echo "$cache/js-$(digest <"$here/js/package-lock.json")"; }

# A virtual environment belongs to one interpreter.
python_folder() { # requirements
  command -v python3 >/dev/null ||
    fail "the Python SDK needs Python 3.10 or later (Debian: apt-get install python3 python3-venv)"
  local version
  version=$(python3 -c 'import sys; print(sys.version, sys.base_prefix); sys.exit(sys.version_info < (3, 10))') ||
    fail "the Python SDK needs Python 3.10 or later; this is $version"
  echo "$cache/python-$({ cat "$1"; echo "$version"; } | digest)"
}

python_sdk=$here/python/requirements.txt
python_component=$here/../../examples/pluggable-python/requirements.txt

have_node() {
  command -v node >/dev/null && command -v npm >/dev/null ||
    fail "the JavaScript SDK needs Node.js 18 or later and npm (Debian: apt-get install nodejs npm)"
  local major
  major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -ge 18 ] || fail "the JavaScript SDK needs Node.js 18 or later; this is $(node --version)"
}

java_folder() { echo "$cache/java-$(digest <"$here/java/pom.xml")"; }

have_java() {
  command -v java >/dev/null && command -v javac >/dev/null ||
    fail "the Java SDK needs a JDK, 17 or later (Debian: apt-get install default-jdk-headless)"
  local version
  version=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.specification.version = //p')
  [ "${version%%.*}" -ge 17 ] || fail "the Java SDK needs Java 17 or later; this is Java $version"
}

# run_quietly shows what a command prints only when it fails.
run_quietly() {
  local log
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    fail "failed: $*"
  fi
  rm -f "$log"
}

install_js() {
  have_node
  local folder building
  folder=$(js_folder)
  if [ -d "$folder" ]; then return; fi
  echo "interop: installing the JavaScript SDK"
  building=$(mktemp -d "$cache/building-XXXXXX")
  cp "$here"/js/package.json "$here"/js/package-lock.json "$here"/js/.npmrc "$building"
  # shellcheck disable=SC2064 # the folder is known now
  trap "rm -rf '$building'" EXIT
  run_quietly npm --prefix "$building" ci --ignore-scripts
  mv "$building" "$folder"
}

install_python() { install_requirements "$python_sdk" "the Python SDK"; }
install_component() { install_requirements "$python_component" "what a component in Python needs"; }

install_requirements() { # requirements, what that is
  local folder
  folder=$(python_folder "$1")
  if [ -e "$folder/complete" ]; then return; fi
  python3 -c 'import ensurepip, venv' 2>/dev/null ||
    fail "this Python has no venv (Debian: apt-get install python3-venv)"
  echo "interop: installing $2"
  rm -rf "$folder"
  # A virtual environment cannot be moved: it is marked when it is complete.
  run_quietly python3 -m venv "$folder"
  run_quietly "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --requirement "$1"
  touch "$folder/complete"
}

install_java() {
  have_java
  local folder building
  folder=$(java_folder)
  if [ -d "$folder" ]; then return; fi
  command -v mvn >/dev/null || fail "fetching the Java SDK needs Maven (Debian: apt-get install maven)"
  echo "interop: installing the Java SDK"
  building=$(mktemp -d "$cache/building-XXXXXX")
  # shellcheck disable=SC2064 # the folder is known now
  trap "rm -rf '$building'" EXIT
  run_quietly mvn --batch-mode --quiet --file "$here/java/pom.xml" dependency:copy-dependencies -DoutputDirectory="$building/jars"
  mv "$building/jars" "$folder"
}

install_go() { (cd "$here/gosdk" && run_quietly go mod download); }

# one_at_a_time keeps two runs from installing the same thing.
one_at_a_time() {
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  if command -v flock >/dev/null; then flock 9; fi
}

# where prints the folder of an SDK that is installed.
where() {
  local folder
  case "$1" in
  js)
    have_node
    folder=$(js_folder)
    [ -d "$folder" ] || fail "the JavaScript SDK is not installed; run make test-deps"
    ;;
  python)
    folder=$(python_folder "$python_sdk")
    [ -e "$folder/complete" ] || fail "the Python SDK is not installed; run make test-deps"
    ;;
  component)
    folder=$(python_folder "$python_component")
    [ -e "$folder/complete" ] || fail "what a component in Python needs is not installed; run make test-deps"
    ;;
  java)
    have_java
    folder=$(java_folder)
    [ -d "$folder" ] || fail "the Java SDK is not installed; run make test-deps"
    ;;
  *) fail "usage: deps.sh where js|python|component|java" ;;
  esac
  echo "$folder"
}

case "${1:-}" in
js | python | component | go | java)
  one_at_a_time
  "install_$1"
  ;;
where) where "${2:-}" ;;
"")
  failed=false
  for sdk in js python component go java; do
    "$here/deps.sh" "$sdk" || failed=true # one failure keeps no other from being tried
  done
  if ! $failed; then
    echo "interop: the SDKs are there"
  else
    case "${CI:-}" in "" | 0 | false | no) ;; *) exit 1 ;; esac
  fi
  ;;
*) fail "usage: deps.sh [js|python|component|go|java], or deps.sh where js|python|component|java" ;;
esac
