#!/usr/bin/env bash
# Makes the pictures of docs/figures/ from the nuclei in data/:  scripts/figures.sh [NETWORK ...]
#   NETWORK: dynamic_head, dyfpn, caddet, drfpn, ifpn, or frontier (default: all)
# Everything else is kept in runs/figures/; a training that is there goes on where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
export TF_CPP_MIN_LOG_LEVEL=2 PYTHONPATH="$PWD"

readonly RUNS=runs/figures
readonly PICTURES=docs/figures
readonly SAMPLE=efficientnetlite0_sample
# Two validation images: stained tissue, and fluorescence with nuclei of several sizes.
readonly STAINED=a0325cb7aa59e9c0 FLUORESCENT=2dec81a678ddcac2
# Small trainings: 150 steps of 4 images of 128 pixels.
readonly SMALL=task.model.input_size=[128,128,3],task.train_data.global_batch_size=4

run() {
  echo "python -m official_ext.$*"
  .venv/bin/python -m "official_ext.$1" "${@:2}"
}

# train NAME EXPERIMENT STEPS OVERRIDES: the folder of the training is runs/figures/NAME.
train() {
  local schedule=trainer.train_steps=$3,trainer.optimizer_config.learning_rate.cosine.decay_steps=$3
  run train --experiment="$2" --mode=train --model_dir="$RUNS/$1" \
    --config_file="$RUNS/records/overrides.yaml" 2>"$RUNS/$1.log" \
    --params_override="task.train_data.parser.aug_rand_hflip=true,$schedule,$4"
}

# predict_gates NAME EXPERIMENT: draws what the gates of a training decided.
predict_gates() {
  run serving.export_saved_model --experiment="$2" --checkpoint_path="$RUNS/$1" \
    --config_file="$RUNS/$1/params.yaml" --export_dir="$RUNS/$1_saved_model"
  run tools.predict --saved_model="$RUNS/$1_saved_model" --output_dir="$RUNS/$1_predictions" \
    --images "$RUNS/val/images/$STAINED.jpg" "$RUNS/val/images/$FLUORESCENT.jpg" --gates
}

# keep NAME WIDTH FILE ...: writes pictures side by side into docs/figures, with 64 colors.
keep() {
  .venv/bin/python - "$PICTURES/$1.png" "${@:2}" <<'PYTHON'
import sys
from PIL import Image
target, width, *paths = sys.argv[1:]
images = [Image.open(path).convert('RGB') for path in paths]
height = min(image.height for image in images)
images = [image.resize((round(image.width * height / image.height), height)) for image in images]
picture = Image.new('RGB', (sum(image.width for image in images), height), 'white')
left = 0
for image in images:
  picture.paste(image, (left, 0))
  left += image.width
picture.thumbnail((int(width), picture.height))
picture.quantize(64).save(target, optimize=True)
PYTHON
  echo "Wrote $PICTURES/$1.png"
}

make_dynamic_head() {
  train dynamic_head fcos_dynamichead_$SAMPLE 300 task.budget.weight=0.4
  predict_gates dynamic_head fcos_dynamichead_$SAMPLE
  keep gates 1200 "$RUNS"/dynamic_head_predictions/gates/{"$STAINED","$FLUORESCENT"}_*_depth.png
}

# Draws the table of budgets in docs/dyfpn.md, whose commands stand above it.
make_dyfpn() {
  .venv/bin/python - "$RUNS/dyfpn.png" <<'PYTHON'
import pathlib
import re
import sys
from official_ext.visualization import tradeoff
page = pathlib.Path('docs/dyfpn.md').read_text(encoding='utf-8')
table = re.search(r'^\| b \|.*?\n\n', page, re.MULTILINE | re.DOTALL)[0]
rows = [[cell.strip() for cell in line.strip('| ').split('|')] for line in table.splitlines()]
values = {name: [float(cell) for cell in cells] for name, *cells in rows if name.strip('-:')}
points = [{'model': 'nuclei, 39 images', 'budget': budget, 'ap': ap, 'gmac_mean': mean,
           'gmac_min': least, 'gmac_max': most}
          for budget, ap, mean, least, most in zip(*(values[name] for name in (
              'b', 'AP', 'GMAC, mean', 'GMAC, cheapest image', 'GMAC, most expensive image')))]
tradeoff.draw_tradeoff(points).savefig(sys.argv[1], dpi=110, bbox_inches='tight')
PYTHON
  keep dyfpn 800 "$RUNS/dyfpn.png"
}

# Draws the tables of docs/frontier_results.md below headings that end with "beside plain
# detectors".
make_frontier() {
  .venv/bin/python - "$PICTURES" <<'PYTHON'
import pathlib
import re
import sys
from matplotlib import figure
page = pathlib.Path('docs/frontier_results.md').read_text(encoding='utf-8')
sections = re.findall(r'^## ([^\n]*), beside plain detectors\n.*?\n(\| network .*?)\n\n', page,
                      re.MULTILINE | re.DOTALL)
detectors = ('FCOS', 'RetinaNet')


def draw(column, label, path):
  """Draws AP against a column, a picture for each data set whose table has it."""
  tables = [(title, [[cell.strip() for cell in line.strip('|').split('|')]
                     for line in table.splitlines()]) for title, table in sections]
  tables = [(title, table) for title, table in tables if column in table[0]]
  plot = figure.Figure(figsize=(5.5 * len(tables), 4.5 * len(detectors)))
  grid = plot.subplots(len(detectors), len(tables), squeeze=False)
  for axes, (title, (head, _, *rows)) in zip(grid.T, tables):
    points, name = {}, ''
    for row in rows:
      name = row[0] or name
      ap, half = f'{row[head.index("AP")]} +- 0'.split(' +- ')[:2]
      if row[head.index(column)]:
        x = row[head.index(column)].split()[0]
        points.setdefault(name, []).append([float(value) for value in (x, ap, half)])
    for detector, axis in zip(detectors, axes):
      own = {name: xy for name, xy in points.items() if name.startswith(detector)}
      if not own:
        axis.set_visible(False)
        continue
      for name, found in own.items():
        axis.errorbar(*zip(*found), marker='o' if len(found) > 1 else 's', label=name, capsize=2)
      best = max(ap for found in own.values() for _, ap, _ in found)
      axis.set_ylim(0.55 * best, 1.15 * best)
      axis.set(title=title, xlabel=label, ylabel='AP')
      axis.grid(alpha=0.3)
      axis.legend(fontsize=6, loc='lower right')
  plot.tight_layout()
  plot.savefig(path, dpi=75)


draw('GMAC (min to max)', 'GMAC per image', f'{sys.argv[1]}/frontier.png')
draw('ms in TensorFlow', 'ms per image in TensorFlow', f'{sys.argv[1]}/frontier_ms.png')
PYTHON
}

make_caddet() {
  train caddet fcos_caddet_sample 150 "$SMALL,task.budget.start_step=30"
  predict_gates caddet fcos_caddet_sample
  keep caddet 1200 "$RUNS"/caddet_predictions/gates/{"$STAINED","$FLUORESCENT"}_*.png
}

make_drfpn() {
  train drfpn retinanet_drfpn_$SAMPLE 150 "$SMALL"
  run tools.compare --trained retinanet_drfpn_$SAMPLE "$RUNS/drfpn" --number=1 \
    --images "$RUNS/val/images/$STAINED.jpg" --output_dir="$RUNS/drfpn_compare"
  keep drfpn 1200 "$RUNS"/drfpn_compare/offsets/*.png
}

make_ifpn() {
  train ifpn retinanet_ifpn_$SAMPLE 150 "$SMALL"
  echo 'python benchmarks/plot_residuals.py'
  .venv/bin/python benchmarks/plot_residuals.py --images="$RUNS/val/images" \
    --model_dir="$RUNS/ifpn" --output="$RUNS/ifpn.png" --params_override="$SMALL,task.model.num_classes=2"
  keep ifpn 800 "$RUNS/ifpn.png"
}

mkdir -p "$RUNS" "$PICTURES"
if [[ ! -d $RUNS/val ]]; then
  run tools.convert_dataset --input=data/nuclei --output_dir="$RUNS/records"
  run tools.write_images --data="$RUNS/records" --output_dir="$RUNS/val"
fi
for network in "${@:-dynamic_head dyfpn caddet drfpn ifpn frontier}"; do
  for name in $network; do
    "make_$name"
  done
done
