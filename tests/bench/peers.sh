#!/usr/bin/env bash
# Installs the systems that benchmarks compare with into .weft/peers, apart from the project's own environment.
set -euo pipefail
cd "$(dirname "$0")/../.."
peers=.weft/peers
wanted="flwr==1.32.1 numpy==2.4.6"
if [ "$(cat "$peers/installed" 2>/dev/null)" != "$wanted" ]; then
  python3 -m venv --clear "$peers"
  # shellcheck disable=SC2086  # one word per package
  "$peers/bin/pip" install --quiet --disable-pip-version-check $wanted >&2
  echo "$wanted" > "$peers/installed"
fi
