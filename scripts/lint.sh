#!/usr/bin/env bash
# Checks the style of all Python files; --fix mends what needs no decision, and BUILD.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
if [[ ${1:-} == --fix ]]; then
  .venv/bin/python scripts/update_build.py
fi
.venv/bin/ruff check "$@" .
