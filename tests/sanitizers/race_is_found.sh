#!/usr/bin/env bash
# The thread sanitizer's build must find the race that common/racy_test.cc has on purpose; else its silence elsewhere says nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
if output=$(bazel test --config=tsan --test_tag_filters= --test_output=all //common:racy_test 2>&1); then
  echo "racy_test passed under --config=tsan: the sanitizer sees nothing"
  exit 1
fi
grep "ThreadSanitizer: data race" <<<"$output" || { echo "racy_test failed without a report of a race:"; echo "$output"; exit 1; }
