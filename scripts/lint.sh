#!/usr/bin/env bash
# Checks the style and the types of the Python files, and BUILD; --fix mends what needs no decision.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
.venv/bin/ruff check "$@" .
.venv/bin/mypy
scripts/check_build.sh
