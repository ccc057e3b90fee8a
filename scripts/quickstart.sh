#!/usr/bin/env bash
# Trains, evaluates, exports and reports on a dynamic detector:  scripts/quickstart.sh [--data FOLDER]
set -euo pipefail
checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
"$checkout/scripts/setup.sh"
exec "$checkout/.venv/bin/python" "$checkout/scripts/quickstart.py" "$@"
