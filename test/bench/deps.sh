#!/usr/bin/env bash
# deps.sh: install the proxies that Proa is measured against. `make bench` and
# `make soak` call it, `make test` does not: no test needs them. A machine it
# cannot help is told what to install.
set -euo pipefail

PATH=$PATH:/usr/sbin:/usr/local/sbin
packages=()
command -v nginx >/dev/null || packages+=(nginx-light)
command -v haproxy >/dev/null || packages+=(haproxy)
command -v redis-server >/dev/null || packages+=(redis-server)
if [ ${#packages[@]} = 0 ]; then exit 0; fi

install=("$(cd "$(dirname "$0")/.." && pwd)/deps.sh" --install "${packages[@]}")
if command -v apt-get >/dev/null; then
  echo "bench: installing ${packages[*]}"
  if [ "$(id -u)" = 0 ]; then
    "${install[@]}" && exit 0
  elif command -v sudo >/dev/null; then
    sudo "${install[@]}" && exit 0
  fi
fi
echo "bench: please install ${packages[*]}" >&2
exit 1
