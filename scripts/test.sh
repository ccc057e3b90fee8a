#!/usr/bin/env bash
# Runs the tests: all of them, or what the arguments for pytest select.
#   scripts/test.sh -m "not slow"               without training, export and builds
#   scripts/test.sh -n0 tests/ops/routing_test.py   one file, in this process
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
if [[ $# == 0 ]]; then
  echo 'All tests take about 30 minutes on two cores; -m "not slow" leaves out the long ones.'
fi
# A file stays with one worker: its tests share models, and every worker loads TensorFlow once.
exec .venv/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder "$@"
