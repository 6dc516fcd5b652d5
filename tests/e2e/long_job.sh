#!/usr/bin/env bash
# A longer job on the demo's data must reach an accuracy of 0.62, although the coordinator is killed twice on the way and started again;
# peft must find the exported adapter to predict the same.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=.weft/long summary=.weft/long.json
rm -rf "$work"
deploy/demo.sh --job tests/e2e/long_job.yaml --work "$work" >"$summary" &
demo=$!
trap 'kill "$demo" "$coordinator" 2>/dev/null || true' EXIT
coordinator=

status() { bazel-bin/cli/weft status --coordinator "$(sed -n 's/^listen: //p' "$work/coordinator.yaml")" --format json 2>/dev/null || echo '{}'; }
rounds_done() { status | .venv/bin/python -c 'import json, sys; print(next(iter(json.load(sys.stdin).get("jobs", [])), {}).get("round", 0))'; }
for at in 2 5; do
  until (($(rounds_done) >= at)); do
    kill -0 "$demo" || { echo "the demo ended before round $at"; exit 1; }
    sleep 1
  done
  echo "killing the coordinator after round $at"
  kill -9 "$(cat "$work/coordinator.pid")"
  bazel-bin/server/weft-coordinator --config "$work/coordinator.yaml" 2>>"$work/logs/coordinator.log" &
  coordinator=$!
  echo "$coordinator" >"$work/coordinator.pid"
  until (($(rounds_done) >= at)); do sleep 0.2; done
done
wait "$demo"
kill "$coordinator"
tail -n 1 "$summary"
.venv/bin/python - "$summary" <<'P'
import json, pathlib, sys
result = json.loads(pathlib.Path(sys.argv[1]).read_text().strip().split("\n")[-1])
assert result["accuracy"] >= 0.62, result
P
.venv/bin/python tests/golden/export_parity.py "$work" "$summary"
