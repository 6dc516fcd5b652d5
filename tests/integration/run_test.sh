#!/bin/sh
# Runs one Python test of this folder: run_test.sh job_test.
exec python3 "$(dirname "$0")/$1.py"
