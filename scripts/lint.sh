#!/usr/bin/env bash
# Checks the style and the types of the Python files, and BUILD; --fix mends what needs no decision.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
.venv/bin/ruff check "$@" .
.venv/bin/mypy
# Of what has few types: whether the names, attributes and arguments are there that it uses.
readonly OTHER=(arg-type assignment import-not-found import-untyped list-item method-assign misc
                return-value str-format union-attr var-annotated)
.venv/bin/mypy --no-warn-unused-ignores "${OTHER[@]/#/--disable-error-code=}" benchmarks scripts
scripts/check_build.sh
