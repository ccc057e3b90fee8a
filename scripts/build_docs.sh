#!/usr/bin/env bash
# Makes the reference of all modules from their docstrings:  scripts/build_docs.sh [FOLDER]
# FOLDER (default: build/docs) is written; open its index.html. A warning ends the build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
folder=${1:-build/docs}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Modules are imported; some library asks `uname` for the processor then, which pdoc warns of.
PDOC_ALLOW_EXEC=1 TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m pdoc --docformat google \
  --no-show-source --output-directory "$folder" official_ext 2>&1 | tee "$log"
if grep -q 'Warn' "$log"; then
  echo 'error: pdoc warned of the lines above.' >&2
  exit 1
fi
echo "Wrote $folder/index.html: $(find "$folder" -name '*.html' | wc -l) pages."
