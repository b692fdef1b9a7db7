#!/usr/bin/env bash
# deps.sh: install the programs that the tests run. `make test-deps` calls it.
#
# It is quick when everything is there, installs from the machine's own package
# sources when something is not, and leaves no service running or enabled. A
# machine it cannot help is told what to install; the tests then skip what they
# cannot run, unless CI is set, where that is a failure.
#
# What one suite alone needs (node modules, Python packages, ...) is installed
# by that suite's own test/<suite>/deps.sh, called at the end. That of test/bench
# is for `make bench` alone.
set -euo pipefail

# The program the tests run, and the Debian package that has it.
wanted='
redis-server redis-server
memcached    memcached
nats-server  nats-server
mariadbd     mariadb-server
rabbitmq-server rabbitmq-server
mosquitto    mosquitto
etcd         etcd-server
java         default-jdk-headless
javac        default-jdk-headless
mvn          maven
node         nodejs
npm          npm
python3      python3
'

here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin:/usr/local/sbin

# missing prints the packages whose program is not there.
missing() {
  while read -r program package; do
    if [ -n "$program" ] && ! command -v "$program" >/dev/null; then echo "$package"; fi
  done <<<"$wanted"
  # A part of Python that Debian has in a package without a program.
  python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  # PostgreSQL's server is not on the path.
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || echo postgresql
}

# as_root runs a command as root, or fails when there is no way to.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    sudo "$@"
  else
    return 1
  fi
}

# give_up says what a person has to do.
give_up() {
  local packages
  mapfile -t packages < <(missing | sort -u)
  echo "test-deps: $1; please install: ${packages[*]}" >&2
  if [ "${CI:-}" ] && [ "$CI" != false ] && [ "$CI" != 0 ] && [ "$CI" != no ]; then exit 1; fi
}

# install_packages installs packages and keeps their services from starting, now
# and at the next boot. It runs as root.
install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  local policy=/usr/sbin/policy-rc.d package
  if [ ! -e "$policy" ]; then
    # shellcheck disable=SC2064 # the path is known now
    trap "rm -f '$policy'" EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  local install=(apt-get install -y -qq --no-install-recommends "$@")
  "${install[@]}" || { apt-get update -qq && "${install[@]}"; } || return
  if [ -d /run/systemd/system ]; then
    for package in "$@"; do systemctl disable --quiet --now "$package" 2>/dev/null || true; done
  fi
}

if [ "${1:-}" = --install ]; then # the part of this script that runs as root
  shift
  log=$(mktemp)
  install_packages "$@" >"$log" 2>&1 && ok=true || ok=false
  $ok || cat "$log" >&2
  rm -f "$log"
  $ok
  exit
fi

mapfile -t packages < <(missing | sort -u)
if [ ${#packages[@]} = 0 ]; then
  echo "test-deps: everything is there"
elif ! command -v apt-get >/dev/null; then
  give_up "this is not a Debian system"
else
  echo "test-deps: installing ${packages[*]}"
  if ! as_root "$here/deps.sh" --install "${packages[@]}" || [ "$(missing)" ]; then
    give_up "that has not worked"
  fi
fi

for suite in "$here"/*/deps.sh; do
  if [ "$suite" != "$here/bench/deps.sh" ] && [ -x "$suite" ]; then "$suite"; fi
done
