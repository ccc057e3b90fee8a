#!/usr/bin/env bash
# Tries the project as a new user would:  scripts/try_as_user.sh [DATA [STEPS]]
# Builds a wheel, installs it into a fresh environment, and runs there, away from the checkout, the
# commands under "Install" of README.md, with DATA (default: data/nuclei) for FOLDER and one of its
# images for PHOTO. Each is printed with the end of what it says and its time. STEPS shortens the
# training. Everything is in a folder that is kept and named at the end (3.5 GB).
# PYTHON=/path/to/python3.12 chooses the interpreter.
set -euo pipefail
checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
data=$(realpath "${1:-$checkout/data/nuclei}")
steps=${2:-}
folder=$(mktemp -d)
cd "$folder"

# timed COMMAND: runs it, and prints it, its time and its last lines; all lines if it fails.
timed() {
  local start=$SECONDS
  echo "\$ $1"
  if ! TF_CPP_MIN_LOG_LEVEL=3 bash -c "$1" >output.log 2>errors.log; then
    cat output.log errors.log >&2
    echo "error: the command above failed; $folder is kept." >&2
    exit 1
  fi
  tail -n 2 output.log | cut -c 1-200 | sed 's/^/    /'
  echo "    took $((SECONDS - start)) s"
}

timed "${PYTHON:-python3} -m venv environment"
export PATH="$folder/environment/bin:$PATH"
cp -r "$checkout"/{official_ext,data,setup.py,pyproject.toml,LICENSE,README.md,constraints.txt} .
mkdir source && mv official_ext data setup.py pyproject.toml LICENSE README.md source/
timed 'pip install --quiet build && python -m build --wheel --outdir . source'
timed 'pip install --quiet official_ext-*.whl -c constraints.txt'

# The indented lines of the section are commands; a line that ends with \ goes on in the next.
commands=$(sed -n '/^## Install/,/^## In/s/^    //p' "$checkout/README.md" | sed -e ':a' -e '/\\$/N; s/\\\n//; ta')
photo=$(find "$data" -type f \( -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' \) -print -quit)
while IFS= read -r command; do
  command=${command//=FOLDER/=$data}
  command=${command//PHOTO/$photo}
  if [[ $command == *official_ext.train* && -n $steps ]]; then
    command+=" --params_override=trainer.train_steps=$steps,trainer.validation_interval=$steps"
  fi
  if [[ $command == python* || $command == saved_model_cli* ]]; then
    timed "$command"
  fi
done <<<"$commands"
echo "Detections: $folder/runs/mine/predictions/drawn ($(find runs/mine/predictions/drawn -type f | wc -l) pictures)"
echo "Answer: $folder/runs/mine/answer ($(find runs/mine/answer -name 'detection_*.npy' | wc -l) outputs of detections)"
