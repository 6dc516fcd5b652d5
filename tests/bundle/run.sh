#!/usr/bin/env bash
# Builds the bundle and runs it as on another machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
bazel build --noshow_progress //deploy:bundle
.venv/bin/python tests/bundle/bundle_test.py -v
