"""Trains a small CADDet under different budgets and tables accuracy beside the spread of cost.

    .venv/bin/python scripts/compare_caddet.py --data=FOLDER --budgets=none,fixed,dynamic

Every run is the experiment `fcos_caddet_sample`, from random weights, on the training images;
average precision is that of Model Garden's evaluation of the last weights on the validation
images, cost that of the routed parts for each of these images: what ran, and what budgets see,
the same with every part weighted by its gate.  A budget that is named several
times is trained several times: runs differ in the order of the images, the initial weights and
the augmentation.  A finished run is kept: the command can be repeated after an interruption,
and with more budgets.  The table is written to --output_dir/table.md too.
"""
import functools
import pathlib
from typing import Any, Dict, Optional

import comparison
import numpy as np

from official_ext.utils import command_line
from official_ext.utils import files

_EXPERIMENT = 'fcos_caddet_sample'
_STATISTICS = ('mean', 'min', 'max', 'std')
# Of the whole cost, for each scale that objects of an image have.
_RATIO = 0.25
# Name in --budgets -> fields of `task.budget`; the weight is that of the experiment.  The fixed
# budget gives every image about what the dynamic one gives on average.
BUDGETS = {
    'none': {'weight': 0.0, 'path_similarity.weight': 0.0},
    'fixed': {'kind': 'fixed', 'ratio': 0.6, 'path_similarity.weight': 0.0},
    'loss_aware': {'kind': 'loss_aware', 'ratio': _RATIO, 'path_similarity.weight': 0.0},
    'dynamic': {'kind': 'scale_aware', 'ratio': _RATIO, 'path_similarity.weight': 0.0},
    'dynamic_similarity': {
        'kind': 'scale_aware', 'ratio': _RATIO, 'path_similarity.weight': 1.0},
}
_DEFAULT = ('none', 'fixed', 'dynamic', 'dynamic_similarity')


def overrides(budget: str, train_steps: Optional[int] = None,
              init_checkpoint: Optional[str] = None, scale_bounds: Optional[str] = None) -> str:
  """Returns what a run changes in the experiment, as `--params_override` takes it."""
  fields = {f'task.budget.{name}': value for name, value in BUDGETS[budget].items()}
  if scale_bounds:
    fields['task.budget.scale_bounds'] = f'[{scale_bounds}]'
  if train_steps:
    fields['task.budget.start_step'] = train_steps // 10
  if init_checkpoint:
    fields |= {'task.init_checkpoint': init_checkpoint,
               'task.init_checkpoint_modules': 'backbone'}
  return comparison.overrides(
      train_steps, *(f'{name}={value}' for name, value in fields.items()))


def _train(budget: str, folder: pathlib.Path, records: pathlib.Path, **options: Any
           ) -> Dict[str, float]:
  """Trains and evaluates under one budget; returns precision, and cost in GMAC."""
  comparison.command('train', experiment=_EXPERIMENT, mode='train_and_eval', model_dir=folder,
                     config_file=records / 'overrides.yaml',
                     params_override=overrides(budget, **options))
  evaluation = comparison.last_evaluation(folder)
  return {**{name: evaluation[name] for name in ('AP', 'AP50')},
          **{name: evaluation[f'routing/gmac/executed/{name}'] for name in _STATISTICS},
          **{f'weighted_{name}': evaluation[f'routing/gmac/expected/{name}']
             for name in ('mean', 'std')},
          'maximum': evaluation['routing/gmac/maximum']}


def _pixels(text: str) -> str:
  """Returns a list of sizes as the configuration takes it."""
  return ','.join(str(float(size)) for size in text.split(','))


def table(results: comparison.Results) -> str:
  """Returns the results as a Markdown table, one row per budget, costs in 10^6 multiply-adds."""
  rows = ['| budget | runs | AP | AP50 | cost: mean | min | max | deviation | of every path '
          '| weighted: mean | deviation |',
          '|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|']
  for budget, runs in results.items():
    ap = [run['AP'] for run in runs]
    spread = f' ({min(ap):.3f} to {max(ap):.3f})' if len(runs) > 1 else ''
    costs = ' | '.join(f'{1e3 * np.mean([run[name] for run in runs]):.1f}'
                       for name in (*_STATISTICS, 'maximum', 'weighted_mean', 'weighted_std'))
    rows.append(f'| `{budget}` | {len(runs)} | {np.mean(ap):.3f}{spread} | '
                f'{np.mean([run["AP50"] for run in runs]):.3f} | {costs} |')
  return '\n'.join(rows)


def main() -> None:
  """Trains what is not trained yet, prints the table after every run and writes it."""
  parser = comparison.parser(__doc__, 'runs/caddet')
  parser.add_argument('--budgets', default=','.join(_DEFAULT), metavar='A,B,...',
                      help=f'any of {", ".join(BUDGETS)}; default: {", ".join(_DEFAULT)}')
  parser.add_argument('--init_checkpoint', metavar='CKPT',
                      help='pre-trained backbone, of the experiment caddet_crops; default: none')
  parser.add_argument('--scale_bounds', metavar='A,B,C', type=_pixels,
                      help='sizes at which a scale ends, such that images differ in the scales '
                           'they have; default: what the experiment says')
  args = parser.parse_args()
  budgets = args.budgets.split(',')
  unknown = sorted(set(budgets) - set(BUDGETS))
  if unknown:
    raise command_line.CommandError(
        f'--budgets names {", ".join(unknown)}; allowed are {", ".join(BUDGETS)}.')
  results = comparison.run_all(
      budgets, args, functools.partial(
          _train, train_steps=args.train_steps, init_checkpoint=args.init_checkpoint,
          scale_bounds=args.scale_bounds), table)
  with files.atomic_file(args.output_dir / 'table.md') as path:
    path.write_text(table(results) + '\n', encoding='utf-8')


if __name__ == '__main__':
  command_line.run(main)
