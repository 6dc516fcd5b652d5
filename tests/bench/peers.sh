#!/usr/bin/env bash
# Installs the systems that benchmarks compare with into .weft/peers, apart from the project's own environment, whose
# torch, transformers and peft they share: so a comparison differs in the framework alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
peers=.weft/peers
wanted="flwr[simulation]==1.42.0 pfl==0.6.0 numpy==2.4.6 psutil==7.2.2"
if [ "$(cat "$peers/installed" 2>/dev/null)" != "$wanted" ]; then
  python3 -m venv --clear "$peers"
  # shellcheck disable=SC2086  # one word per package
  "$peers/bin/pip" install --quiet --disable-pip-version-check $wanted >&2
  # Read after the folder it lies in: what peers brought themselves goes first.
  (cd .venv/lib/python3*/site-packages && pwd) > "$(echo "$peers"/lib/python3*/site-packages)/weft-shared.pth"
  echo "$wanted" > "$peers/installed"
fi
