#!/usr/bin/env bash
# deps.sh: install the Kafka that tests run. test/deps.sh calls it; see jars.sh
# for what it can be told.
set -euo pipefail
name=kafka title="Apache Kafka"
# shellcheck source=../jars.sh
. "$(dirname "$0")/../jars.sh"
