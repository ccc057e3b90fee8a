"""Budgets of two parts side by side: DyFPN and the dynamic head in one detector."""
import argparse
from typing import Any

from comparisons import comparison
import numpy as np

_EXPERIMENT = 'fcos_dynamichead_efficientnetlite0_sample'
_NECK = ','.join(f'task.model.decoder.{field}' for field in (
    'type=dyfpn', 'dyfpn.num_filters=64', 'dyfpn.branch_init_scale=0.01'))
# Part -> its weight, and the other fields of its budget.
_BUDGETS = {'decoder': (5.0, 'target: 0.5'),
            'head': (0.4, 'target: 0.0, distance: absolute')}
# Name of the run -> the parts that have a budget.
PARTS: dict[str, tuple[str, ...]] = {
    'none': (), 'decoder': ('decoder',), 'head': ('head',), 'both': ('decoder', 'head')}
# The share of a part without a budget is logged too, but its loss counts for nothing.
_MEASURES_ONLY = 1e-9


class PartComparison(comparison.Comparison):
  """Trains DyFPN (block B) with the dynamic head under budgets of both, of one, and of none.

  The budget of the decoder is a share of 0.5 of what its gates can save, that of the head is
  lambda 0.4.  Each should reach beside the other what it reaches alone.
  """
  default_runs = tuple(PARTS)
  allowed = ', '.join(PARTS)

  def resolve(self, name: str, args: argparse.Namespace) -> comparison.Run | None:
    """Returns the training under the budgets that a name stands for."""
    del args
    if name not in PARTS:
      return None
    budgets = ', '.join(
        f'{{part: {part}, weight: {weight if part in PARTS[name] else _MEASURES_ONLY}, {fields}}}'
        for part, (weight, fields) in _BUDGETS.items())
    return comparison.Run(
        _EXPERIMENT, f'{_NECK},task.budget.weight=0,task.budgets=[{budgets}]')

  def summarize(self, params: Any, evaluation: dict[str, float]) -> dict[str, float]:
    """Returns precision, and of each part the share that ran and the one that its budget sees."""
    del params
    return {**{name: evaluation[name] for name in ('AP', 'AP50')},
            **{f'{part}_{field}': evaluation[f'routing/share/{part}/{field}']
               for part in _BUDGETS for field in ('executed', 'expected')}}

  def table(self, results: comparison.Results, milliseconds: dict[str, dict[str, float]]) -> str:
    """Returns one row per run."""
    del milliseconds
    rows = ['| budgets of | runs | AP | AP50 | decoder: share its budget sees | share that ran '
            '| head: share its budget sees | share that ran |',
            '|---|---:|---:|---:|---:|---:|---:|---:|']
    for name, runs in results.items():
      shares = ' | '.join(f'{np.mean([run[f"{part}_{field}"] for run in runs]):.3f}'
                          for part in _BUDGETS for field in ('expected', 'executed'))
      rows.append(f'| `{name}` | {comparison.precision_columns(runs)} | {shares} |')
    return '\n'.join(rows)
