#!/usr/bin/env bash
# deps.sh: install MongoDB Java Server, which stands in for MongoDB in tests.
# test/deps.sh calls it; see jars.sh for what it can be told.
set -euo pipefail
name=mongodb title="MongoDB Java Server"
# shellcheck source=../jars.sh
. "$(dirname "$0")/../jars.sh"
