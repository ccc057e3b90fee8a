#!/usr/bin/env bash
# Makes .venv in the checkout with everything the project needs; quick if it is up to date.
# PYTHON=/path/to/python3.12 chooses the interpreter of a new .venv (3.11 or 3.12).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv
readonly STAMP=$VENV/.official_ext_stamp     # the fingerprint of a finished .venv
readonly UNFINISHED=$VENV/.official_ext_unfinished   # exists while packages are installed
readonly FITS='import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))'

fail() {
  echo "error: $*" >&2
  exit 1
}

# Prints a checksum of all that .venv depends on: requirements, interpreter and folder.
fingerprint() {
  {
    cat setup.py constraints.txt
    "$VENV/bin/python" -c 'import sys; print(sys.version)'
    pwd -P
  } | cksum
}

# Whether .venv is finished and up to date.
is_current() {
  [[ -f $STAMP && ! -e $UNFINISHED ]] && [[ $(fingerprint 2>/dev/null) == "$(<"$STAMP")" ]]
}

# Whether .venv can be brought up to date: it is not half-made, its Python fits, and pip works.
is_usable() {
  [[ ! -e $UNFINISHED ]] && "$VENV/bin/python" -c "$FITS" 2>/dev/null \
    && "$VENV/bin/pip" --version >/dev/null 2>&1
}

# Prints the path of an interpreter that fits, or fails.
find_python() {
  local candidate path candidates=(python3.12 python3.11 python3)
  if [[ -n ${PYTHON:-} ]]; then
    candidates=("$PYTHON")
  fi
  for candidate in "${candidates[@]}"; do
    # Tries every one on the PATH, because the first may be a version manager's stand-in.
    while IFS= read -r path; do
      if "$path" -c "$FITS" 2>/dev/null; then
        echo "$path"
        return
      fi
    done < <(type -ap "$candidate")
  done
  fail "no fitting Python${PYTHON:+ ($PYTHON)}: install Python 3.11 or 3.12 with venv and pip" \
    "(Debian, Ubuntu: apt install python3-venv), or name one by PYTHON=/path/to/python3.12."
}

if is_current; then
  exit 0
fi

# flock lets one setup run at a time; some systems do not have it.
exec 9<"scripts/setup.sh"
if command -v flock >/dev/null && ! flock --nonblock 9; then
  echo 'Waiting for another setup of this checkout to finish.'
  flock 9
  if is_current; then
    exit 0
  fi
fi

pip_options=(--disable-pip-version-check --quiet)
if ! is_usable; then
  python=$(find_python)
  if [[ -e $VENV ]]; then
    echo "Removing $VENV: it is half-made, moved, or of a Python that does not fit."
    rm -rf "$VENV"
  fi
  echo "Making $VENV with $python: 3.3 GB, a few minutes the first time."
  pip_options=(--disable-pip-version-check)
  mkdir "$VENV"
  touch "$UNFINISHED"
  "$python" -m venv "$VENV" || fail "$python could not make $VENV (the lines above say why)."
fi

echo "Installing official_ext and what it needs into $VENV."
touch "$UNFINISHED"
if ! "$VENV/bin/python" -m pip install "${pip_options[@]}" \
    --editable '.[dev,docs,litert,onnx,openvino]' --constraint constraints.txt; then
  # pip ended by itself, so the next run can complete this .venv instead of making a new one.
  rm -f "$UNFINISHED"
  fail 'pip could not install the packages (the lines above say why): mend it and run this again.'
fi
fingerprint >"$STAMP"
rm -f "$UNFINISHED"
echo "Ready: $VENV ($("$VENV/bin/python" --version))."
