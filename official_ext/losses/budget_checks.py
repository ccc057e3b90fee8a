"""Checks of the options of a budget."""
from collections.abc import Sequence

import tensorflow as tf

from official_ext.configs import options
from official_ext.losses import drawn_budget
from official_ext.losses import path_similarity
from official_ext.losses import scale_budget
from official_ext.modeling.layers import routed
from official_ext.ops import checks

# The kinds whose target is a share of what gates can save.
SHARE_KINDS = ('share', 'drawn')
KINDS = (*SHARE_KINDS, 'fixed', 'scale_aware', 'loss_aware')
REDUCTIONS = ('mean', 'sum', 'mean_share')
DISTANCES = ('squared', 'absolute')
# What `part` may be.
PARTS = (*routed.PARTS, 'all')


def check(config: options.BudgetConfig) -> None:
  """Checks that every option of a budget has its type and is in its range.

  Args:
    config: the options.

  Raises:
    ArgumentError: names the field, relative to `config`.
  """
  checks.check_types(options.BudgetConfig, config.as_dict())
  checks.check_one_of('kind', config.kind, KINDS)
  checks.check_one_of('part', config.part, PARTS)
  if config.kind not in SHARE_KINDS and config.part not in ('backbone', 'all'):
    raise checks.ArgumentError(
        'part', f'part is {config.part!r} and kind {config.kind!r}, which is for the backbone '
        "`caddet`; for other parts the kind must be 'share' or 'drawn'.")
  for argument, weight in (('weight', config.weight),
                           ('path_similarity.weight', config.path_similarity.weight),
                           ('information.weight', config.information.weight)):
    checks.check_range(argument, weight, 0)
  check_budget(config.target, config.reduction, config.distance)
  if (config.information.weight and config.weight and config.kind in SHARE_KINDS
      and config.reduction != 'mean_share'):
    raise checks.ArgumentError(
        'reduction', f'reduction is {config.reduction!r}, which pulls every image to the target, '
        "and information.weight rewards images that differ: reduction must be 'mean_share', or "
        'one of the two weights 0.')
  drawn_budget.check(config.draw_range, config.full_every, config.shrink_steps)
  if not 0 < config.ratio <= 1:
    raise checks.ArgumentError(
        'ratio', f'ratio is {config.ratio}; it is a share of the cost of the backbone, above 0 '
        'and at most 1.')
  for argument, step in (('start_step', config.start_step),
                         ('information.start_step', config.information.start_step)):
    if step < 0:
      raise checks.ArgumentError(
          argument, f'{argument} is {step}; it is the number of a training step, from 0.')
  scale_budget.check_bounds('scale_bounds', config.scale_bounds)
  path_similarity.check_range(
      'path_similarity.minimum', config.path_similarity.minimum, config.path_similarity.maximum)


def check_budget(target: tf.Tensor | float, reduction: str, distance: str = 'squared') -> None:
  """Checks the arguments of `budget_loss`.

  Args:
    target: wanted share of what gates can save; a tensor is not checked.
    reduction: how the shares of images become one loss.
    distance: how far a share is from the target.

  Raises:
    ArgumentError: a target outside [0, 1], an unknown reduction or distance.
  """
  if not tf.is_tensor(target) and not 0 <= target <= 1:
    raise checks.ArgumentError(
        'target', f'target is {target}; it is a share of the cost that can be saved, between 0 '
        '(all shut) and 1 (all open).')
  checks.check_one_of('reduction', reduction, REDUCTIONS)
  checks.check_one_of('distance', distance, DISTANCES)


def check_learning(config: options.BudgetConfig, layers: Sequence[routed.RoutedLayer],
                   path_layers: Sequence[str]) -> None:
  """Checks that losses on what gates decide count no gates that are drawn at random.

  Args:
    config: options of the budget.
    layers: those of its part.
    path_layers: names of those that the path similarity counts.

  Raises:
    ArgumentError: names the weight, relative to `config`, and the field of the gate.
  """
  drawn = [layer.name for layer in layers if layer.gate_names and not layer.learns_gates]
  for argument, weight, counted in (
      ('information.weight', config.information.weight, drawn),
      ('path_similarity.weight', config.path_similarity.weight, {*path_layers} & {*drawn})):
    if weight and counted:
      raise checks.ArgumentError(
          argument, f'{argument} is {weight}, but gate.type of {", ".join(sorted(counted))} is '
          "'random': its gates are drawn, and no loss changes what they decide; the weight must be "
          "0, or gate.type 'channel' or 'recurrent'.")
