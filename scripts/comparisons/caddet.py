"""CADDet's budgets side by side: the small CADDet detector, from random weights."""
import argparse
import types
from typing import Any

from comparisons import comparison
import numpy as np

_EXPERIMENT = 'fcos_caddet_sample'
_STATISTICS = ('mean', 'min', 'max', 'std')
# Share of the whole cost that an image may use for each scale that its objects have.
_RATIO = 0.25
# Name of the run -> fields of `task.budget`; the weight is that of the experiment.  The fixed
# budget gives every image about what the dynamic one gives on average.
BUDGETS: dict[str, dict[str, Any]] = {
    'none': {'weight': 0.0, 'path_similarity.weight': 0.0},
    'fixed': {'kind': 'fixed', 'ratio': 0.6, 'path_similarity.weight': 0.0},
    'loss_aware': {'kind': 'loss_aware', 'ratio': _RATIO, 'path_similarity.weight': 0.0},
    'dynamic': {'kind': 'scale_aware', 'ratio': _RATIO, 'path_similarity.weight': 0.0},
    'dynamic_similarity': {
        'kind': 'scale_aware', 'ratio': _RATIO, 'path_similarity.weight': 1.0},
}


def _pixels(text: str) -> str:
  """Returns a list of sizes as the configuration takes it."""
  return ','.join(str(float(size)) for size in text.split(','))


class BudgetComparison(comparison.Comparison):
  """Trains a small CADDet under different budgets and tables accuracy beside the spread of cost.

  Every run is the experiment `fcos_caddet_sample`, from random weights.  Cost is that of the
  routed parts for each validation image: what ran, and what budgets see, which is the same with
  every part weighted by its gate.  Every training is evaluated twice: with the gates of open
  paths as their weights, as in training, and with weights of 1 (`hard_gates`).
  """
  default_runs = ('none', 'fixed', 'dynamic', 'dynamic_similarity')
  allowed = ', '.join(BUDGETS)
  evaluations = types.MappingProxyType({'hard': 'task.model.backbone.caddet.hard_gates=true'})

  def add_arguments(self, parser: argparse.ArgumentParser) -> None:
    """Adds the start of the backbone and the sizes of the scales."""
    parser.add_argument('--init_checkpoint', metavar='CKPT',
                        help='pre-trained backbone, of the experiment caddet_crops; default: none')
    parser.add_argument('--scale_bounds', metavar='A,B,C', type=_pixels,
                        help='sizes in pixels at which a scale ends, chosen so that images differ '
                             'in the scales they have; default: what the experiment says')

  def resolve(self, name: str, args: argparse.Namespace) -> comparison.Run | None:
    """Returns the training under a budget, which starts after a tenth of --train_steps."""
    if name not in BUDGETS:
      return None
    fields = {f'task.budget.{field}': value for field, value in BUDGETS[name].items()}
    if args.scale_bounds:
      fields['task.budget.scale_bounds'] = f'[{args.scale_bounds}]'
    if args.train_steps:
      fields['task.budget.start_step'] = args.train_steps // 10
    if args.init_checkpoint:
      fields |= {'task.init_checkpoint': args.init_checkpoint,
                 'task.init_checkpoint_modules': 'backbone'}
    return comparison.Run(
        _EXPERIMENT, ','.join(f'{field}={value}' for field, value in fields.items()))

  def summarize(self, params: Any, evaluation: dict[str, float]) -> dict[str, float]:
    """Returns precision, and the cost of the routed parts in 10^9 multiply-adds."""
    del params
    return {**{name: evaluation[name] for name in ('AP', 'AP50', 'hard/AP')},
            **{name: evaluation[f'routing/gmac/executed/{name}'] for name in _STATISTICS},
            **{f'weighted_{name}': evaluation[f'routing/gmac/expected/{name}']
               for name in ('mean', 'std')},
            'maximum': evaluation['routing/gmac/maximum']}

  def table(self, results: comparison.Results, milliseconds: dict[str, dict[str, float]]) -> str:
    """Returns one row per budget, costs in 10^6 multiply-adds."""
    del milliseconds
    rows = ['| budget | runs | AP | AP50 | AP, hard gates | cost: mean | min | max | deviation '
            '| of every path | weighted: mean | deviation |',
            '|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|']
    for budget, runs in results.items():
      costs = ' | '.join(f'{1e3 * np.mean([run[name] for run in runs]):.1f}'
                         for name in (*_STATISTICS, 'maximum', 'weighted_mean', 'weighted_std'))
      hard = np.mean([run['hard/AP'] for run in runs])
      rows.append(
          f'| `{budget}` | {comparison.precision_columns(runs)} | {hard:.3f} | {costs} |')
    return '\n'.join(rows)
