#!/usr/bin/env bash
# The demo's job once with each encoding of updates: the accuracy stays within a point of f32's (two for int4, five for a tenth of the values,
# whose other nine tenths come rounds later by error feedback), and as many bytes go up as the encoding says.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=.weft/encodings
mkdir -p "$work"
for values in f32 bf16 f16 int8 int4 topk; do
  { cat deploy/demo/job.yaml; printf 'encoding:\n  values: %s\n' "$values"; } >"$work/$values.yaml"
  if [[ $values == topk ]]; then printf '  density: 0.1\n' >>"$work/$values.yaml"; fi
  deploy/demo.sh --job "$work/$values.yaml" 2>"$work/$values.log" | tail -n 1 >"$work/$values.json"
done
.venv/bin/python - "$work" <<'P'
import json, pathlib, sys
runs = {path.stem: json.loads(path.read_text()) for path in pathlib.Path(sys.argv[1]).glob("*.json")}
full = runs["f32"]
points = {"bf16": 1, "f16": 1, "int8": 1, "int4": 2, "topk": 5}
# Part of f32's bytes, with the scales of blocks of 128 values (4 bytes each) and topk's indices.
parts = {"bf16": 1 / 2, "f16": 1 / 2, "int8": 1 / 4 + 1 / 128, "int4": 1 / 8 + 1 / 128, "topk": 0.2}
for name, run in sorted(runs.items()):
    print(f"encoding={name} accuracy={run['accuracy']:.4f} bytes_up_over_f32={run['bytes_up'] / full['bytes_up']:.4f}")
for name, allowed in points.items():
    assert runs[name]["accuracy"] >= full["accuracy"] - allowed / 100, (name, runs[name], full)
    assert abs(runs[name]["bytes_up"] / full["bytes_up"] / parts[name] - 1) < 0.02, (name, runs[name])
P
