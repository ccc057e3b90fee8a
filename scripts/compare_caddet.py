"""Trains a small CADDet under different budgets and tables accuracy beside the spread of cost.

    .venv/bin/python scripts/compare_caddet.py --data=FOLDER --budgets=none,fixed,dynamic

Every run is the experiment `fcos_caddet_sample`, from random weights, on the training images;
average precision is that of Model Garden's evaluation of the last weights on the validation
images, cost that of the routed parts for each of these images.  A budget that is named several
times is trained several times: runs differ in the order of the images, the initial weights and
the augmentation.  A finished run is kept: the command can be repeated after an interruption,
and with more budgets.  The table is written to --output_dir/table.md too.
"""
import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
from typing import Any, Dict, List

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
from tensorboard.backend.event_processing import event_accumulator
import tensorflow as tf

from official_ext.utils import command_line
from official_ext.utils import files

_EXPERIMENT = 'fcos_caddet_sample'
_COST = 'routing/gmac/executed/'
_STATISTICS = ('mean', 'min', 'max', 'std')
# Name in --budgets -> fields of `task.budget`.  The dynamic budget gives 0.1 of the whole cost
# for each of the two scales that images have on average, the fixed one as much to every image.
BUDGETS = {
    'none': {'weight': 0.0, 'path_similarity.weight': 0.0},
    'fixed': {'kind': 'fixed', 'ratio': 0.2, 'path_similarity.weight': 0.0},
    'loss_aware': {'kind': 'loss_aware', 'ratio': 0.1, 'path_similarity.weight': 0.0},
    'dynamic': {'kind': 'scale_aware', 'ratio': 0.1, 'path_similarity.weight': 0.0},
    'dynamic_similarity': {'kind': 'scale_aware', 'ratio': 0.1, 'path_similarity.weight': 1.0},
}
_DEFAULT = ('none', 'fixed', 'dynamic', 'dynamic_similarity')


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', type=pathlib.Path, required=True, metavar='FOLDER',
                      help='data set in COCO, Pascal VOC or CSV layout')
  parser.add_argument('--budgets', default=','.join(_DEFAULT), metavar='A,B,...',
                      help=f'any of {", ".join(BUDGETS)}; default: {", ".join(_DEFAULT)}')
  parser.add_argument('--train_steps', type=int, metavar='N',
                      help='default: what the experiment says')
  parser.add_argument('--init_checkpoint', metavar='CKPT',
                      help='pre-trained backbone, of the experiment caddet_crops; default: none')
  parser.add_argument('--output_dir', type=pathlib.Path, default=pathlib.Path('runs/caddet'),
                      metavar='DIR', help='default: runs/caddet')
  return parser.parse_args()


def overrides(budget: str, train_steps: int, init_checkpoint: str) -> str:
  """Returns what a run changes in the experiment, as `--params_override` takes it."""
  # Digits of the composed sample must not be mirrored; most other things may be.
  fields = {'task.train_data.parser.aug_rand_hflip': 'true'}
  fields |= {f'task.budget.{name}': value for name, value in BUDGETS[budget].items()}
  if train_steps:
    fields |= {'trainer.train_steps': train_steps, 'trainer.validation_interval': train_steps,
               'trainer.optimizer_config.learning_rate.cosine.decay_steps': train_steps,
               'task.budget.start_step': train_steps // 10}
  if init_checkpoint:
    fields |= {'task.init_checkpoint': init_checkpoint,
               'task.init_checkpoint_modules': 'backbone'}
  return ','.join(f'{name}={value}' for name, value in fields.items())


def _command(module: str, **options: Any) -> None:
  """Runs one of the package's commands and shows only its errors."""
  arguments = [f'--{key}={value}' for key, value in options.items()]
  result = subprocess.run(
      [sys.executable, '-m', f'official_ext.{module}', *arguments], check=False, text=True,
      stderr=subprocess.PIPE, env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2'})
  if result.returncode:
    raise command_line.CommandError(
        f'official_ext.{module} {" ".join(arguments)} ended with status {result.returncode}: '
        f'{(result.stderr.strip() or "no message").splitlines()[-1]}')


def last_evaluation(model_dir: pathlib.Path) -> Dict[str, float]:
  """Reads what the trainer's last evaluation wrote for TensorBoard: precision and cost."""
  events = event_accumulator.EventAccumulator(
      str(model_dir / 'validation'), size_guidance={event_accumulator.TENSORS: 0})
  events.Reload()
  names = ['AP', 'AP50', f'{_COST[:-len("executed/")]}maximum',
           *(_COST + statistic for statistic in _STATISTICS)]
  return {name.rpartition('/')[2]: float(tf.make_ndarray(events.Tensors(name)[-1].tensor_proto))
          for name in names}


def _train(budget: str, folder: pathlib.Path, records: pathlib.Path,
           args: argparse.Namespace) -> None:
  """Trains and evaluates under one budget, and writes `result.json` at the end."""
  _command('train', experiment=_EXPERIMENT, mode='train_and_eval', model_dir=folder,
           config_file=records / 'overrides.yaml',
           params_override=overrides(budget, args.train_steps, args.init_checkpoint))
  with files.atomic_file(folder / 'result.json') as path:
    path.write_text(json.dumps(last_evaluation(folder), indent=2) + '\n', encoding='utf-8')


def table(results: Dict[str, List[Dict[str, float]]]) -> str:
  """Returns the results as a Markdown table, one row per budget, costs in 10^6 multiply-adds."""
  rows = ['| budget | runs | AP | AP50 | cost: mean | min | max | deviation | every path |',
          '|---|---:|---:|---:|---:|---:|---:|---:|---:|']
  for budget, runs in results.items():
    ap = [run['AP'] for run in runs]
    spread = f' ({min(ap):.3f} to {max(ap):.3f})' if len(runs) > 1 else ''
    costs = ' | '.join(f'{1e3 * np.mean([run[name] for run in runs]):.1f}'
                       for name in (*_STATISTICS, 'maximum'))
    rows.append(f'| `{budget}` | {len(runs)} | {np.mean(ap):.3f}{spread} | '
                f'{np.mean([run["AP50"] for run in runs]):.3f} | {costs} |')
  return '\n'.join(rows)


def main() -> None:
  """Trains what is not trained yet and prints the table after every run."""
  args = _arguments()
  budgets = args.budgets.split(',')
  unknown = sorted(set(budgets) - set(BUDGETS))
  if unknown:
    raise command_line.CommandError(
        f'--budgets names {", ".join(unknown)}; allowed are {", ".join(BUDGETS)}.')
  records = args.output_dir / 'records'
  _command('tools.convert_dataset', input=args.data, output_dir=records)
  counts, results = collections.Counter(), collections.defaultdict(list)
  for number, budget in enumerate(budgets, 1):
    counts[budget] += 1
    folder = args.output_dir / f'{budget}-{counts[budget]}'
    if not (folder / 'result.json').is_file():
      command_line.say(f'\n[{number}/{len(budgets)}] training {budget} in {folder}')
      _train(budget, folder, records, args)
    results[budget].append(json.loads((folder / 'result.json').read_text(encoding='utf-8')))
    command_line.say(f'\n{table(results)}')
  with files.atomic_file(args.output_dir / 'table.md') as path:
    path.write_text(table(results) + '\n', encoding='utf-8')


if __name__ == '__main__':
  command_line.run(main)
