#!/usr/bin/env bash
# Benchmarks, printed as name=value lines. tests/bench/run.sh wire | train | demo | fold | sim | all; further words go to the benchmark.
set -euo pipefail
cd "$(dirname "$0")/../.."
what=${1:-}
shift || true
python=.venv/bin/python

setup() {
  deploy/setup.sh --tests
  bazel build --noshow_progress --ui_event_filters=-info "$@" >&2
}

case "$what" in
  wire)
    setup //cli:weft //client:weft-client-fake //server:weft-coordinator
    "$python" tests/bench/wire.py "$@"
    ;;
  train)
    setup //training:trainer_bench //cli:weft
    deploy/demo/prepare.sh 4
    "$python" tests/bench/train.py .weft/demo/data/client-1 "$@"
    ;;
  demo)
    setup //cli:weft //client:weft-client //server:weft-coordinator
    "$python" tests/bench/demo.py "$@"
    ;;
  fold)
    setup //aggregators/core:fold_bench //aggregators/core:factored_bench
    tests/bench/peers.sh
    "$python" tests/bench/fold.py "$@"
    "$python" tests/bench/factored.py
    ;;
  sim)
    setup //simulation:weft-sim //simulation:sim_bench //cli:weft
    tests/bench/peers.sh
    "$python" simulation/scenarios/prepare.py debian-sections digits
    "$python" tests/bench/sim.py "$@"
    ;;
  all)
    for one in wire train demo fold sim; do "$0" "$one"; done
    ;;
  *)
    echo "bench: found \"$what\", expected wire, train, demo, fold, sim or all" >&2
    exit 2
    ;;
esac
