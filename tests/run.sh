#!/usr/bin/env bash
# Every test. Sets the machine up, builds, runs; the last line is "N passed, N failed".
#
#   tests/run.sh          set-up, build, unit, integration, golden, page and tree checks: what every change must pass
#   tests/run.sh --all    also sanitizers, clang-tidy, the end-to-end jobs. Resumable: what has passed on this very tree is not run again
#
# Each Bazel test target and each check below counts as one. Logs: .weft/tests/.
set -uo pipefail
cd "$(dirname "$0")/.."

all=0
case "${1:-}" in
  "") ;;
  --all) all=1 ;;
  *) echo "run.sh: found argument \"$1\", expected --all or none" >&2; exit 2 ;;
esac
logs=.weft/tests
mkdir -p "$logs"
passed=0 failed=0

report() {  # name, seconds, 0 when it passed, log
  if (($3 == 0)); then
    passed=$((passed + 1))
    printf 'ok      %-28s %4d s\n' "$1" "$2"
  else
    failed=$((failed + 1))
    printf 'FAILED  %-28s %4d s   %s\n' "$1" "$2" "$4"
    tail -n 40 "$4" | sed 's/^/    /'
  fi
}

check() {  # name, command...: one check
  local name=$1 log=$logs/$1.log started=$SECONDS code=0
  shift
  "$@" >"$log" 2>&1 </dev/null || code=$?
  report "$name" $((SECONDS - started)) "$code" "$log"
  return "$code"
}

bazel_tests() {  # name, bazel arguments...: each target counts
  local name=$1 log=$logs/$1.log started=$SECONDS code=0 ok bad
  shift
  bazel test --test_summary=short --keep_going --noshow_progress "$@" >"$log" 2>&1 </dev/null || code=$?
  ok=$(grep -cE '^//[^ ]+ +(\(cached\) +)?(PASSED|FLAKY)' "$log")
  bad=$(grep -cE '^//[^ ]+ +(FAILED|TIMEOUT|NO STATUS)' "$log")
  ((code != 0 && bad == 0)) && bad=1
  ((code == 0 && ok == 0)) && bad=1
  passed=$((passed + ok)) failed=$((failed + bad))
  printf '%-7s %-28s %4d s   %d targets passed, %d failed\n' "$( ((bad)) && echo FAILED || echo ok)" "$name" \
    $((SECONDS - started)) "$ok" "$bad"
  if ((bad)); then
    echo "    see $log"
    grep -E '^//[^ ]+ +(FAILED|TIMEOUT|NO STATUS)|error:|^ERROR' "$log" | head -40 | sed 's/^/    /'
    grep -E '^\[  FAILED|^FAIL:|Failure$|AssertionError' "$log" | head -40 | sed 's/^/    /'
  fi
  return "$bad"
}

done_before() {  # name: passed on this very tree in an earlier --all
  [[ $(cat "$logs/$1.passed" 2>/dev/null) == "$tree" ]] || return 1
  passed=$((passed + 1))
  printf 'ok      %-28s earlier\n' "$1"
}
once() {  # name, command...: a check of --all
  done_before "$1" && return
  check "$@" && echo "$tree" >"$logs/$1.passed"
}
once_bazel() {  # name, bazel arguments...
  done_before "$1" && return
  bazel_tests "$@" && echo "$tree" >"$logs/$1.passed"
}
finish() {
  echo
  echo "$passed passed, $failed failed"
  exit $((failed > 0))
}

formatted() { git ls-files -z '*.h' '*.cc' '*.inc' | xargs -0 clang-format --dry-run --Werror; }
golden_run() { deploy/demo.sh --job tests/golden/job.yaml --work .weft/golden >.weft/golden.json; }
python=.venv/bin/python

check set-up deploy/setup.sh --tests || finish
bazel_tests bazel //...
check format formatted
check tree "$python" -m unittest discover -s tests/tree -p '*_test.py' -v
check prepare "$python" -m unittest discover -s tests/prepare -p '*_test.py' -v
check generate "$python" -m unittest discover -s tests/generate -p '*_test.py' -v
check sim "$python" -m unittest discover -s tests/sim -p '*_test.py' -v
check bert-parity "$python" tests/golden/bert_parity.py
check rdp-parity "$python" tests/golden/rdp_parity.py
check mlp-parity "$python" tests/golden/mlp_parity.py
check describe "$python" tests/golden/families/describe_check.py
check families-parity "$python" tests/golden/families/parity.py
check forms-parity "$python" tests/golden/forms_parity.py
check generate-parity "$python" tests/golden/generate_parity.py
check rules-parity "$python" tests/golden/rules/rules_parity.py
check demo-short golden_run
check export-parity "$python" tests/golden/export_parity.py .weft/golden .weft/golden.json
check fuzz tests/fuzz/run.sh 20
check page "$python" tests/page/page_test.py bazel-bin/tests/page/page_fixture
check bundle tests/bundle/run.sh

if ((all)); then
  tree=$(git rev-parse 'HEAD^{tree}')-$(git diff HEAD | sha256sum | cut -c1-16)
  once_bazel tsan --config=tsan //...
  once tsan-sees-a-race tests/sanitizers/race_is_found.sh
  once_bazel asan --config=asan //...
  once clang-tidy "$python" tests/tree/tidy.py
  once long-fuzzing tests/fuzz/run.sh 240
  once adding-an-aggregator "$python" tests/docs/adding_an_aggregator_test.py --scratch .weft/adding
  once claims "$python" tests/claims/claims.py
  once dp-table "$python" tests/claims/dp_table.py
  once encodings tests/e2e/encodings.sh
  once demo tests/e2e/demo.sh
  once long-job tests/e2e/long_job.sh
fi
finish
