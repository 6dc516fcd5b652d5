#!/usr/bin/env bash
# The demo as a newcomer runs it, twice: accuracy 0.55 within five minutes of federated work; the second run rebuilds and downloads nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
for run in 1 2; do
  line=$(deploy/demo.sh 2>.weft/demo-run.log | tail -n 1)
  echo "run $run: $line"
  if ((run == 2)); then
    ! grep -E "installing|Compiling|Linking" .weft/demo-run.log
  fi
  .venv/bin/python - "$line" <<'P'
import json, pathlib, sys
result = json.loads(sys.argv[1])
assert set(result) == {"rounds", "accuracy", "seconds", "bytes_up", "bytes_down", "adapter"}, result
assert result["accuracy"] >= 0.55, result
assert result["seconds"] <= 300, result
assert result["bytes_up"] > 0 and result["bytes_down"] > 0, result
assert (pathlib.Path(result["adapter"]) / "adapter_model.safetensors").exists(), result
P
done
