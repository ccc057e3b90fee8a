"""The gates of a block of the dynamic head, on all levels together or level by level."""
from collections.abc import Mapping, Sequence
import functools

import tensorflow as tf

from official_ext.modeling.heads.dynamic_head import gate_budget
from official_ext.modeling.heads.dynamic_head import spatial_gates
from official_ext.modeling.heads.dynamic_head import steps
from official_ext.modeling.layers import budget_control

# Path, and the level that it leaves.
GateKey = tuple[str, str]
Gates = dict[GateKey, tf.Tensor]
# The paths that leave a position: to the next coarser level, to the next finer one, and the
# residual block of its own level.
PATHS = ('coarser', 'finer', 'depth')


def existing_paths(paths: Sequence[str], level: str, levels: Sequence[str]) -> list[str]:
  """Returns those of the paths that leave a level: the coarsest has no `coarser`, for example."""
  neighbors = steps.neighbor_levels(level, levels)
  return [path for path in paths if path == 'depth' or path in neighbors]


def decide(decisions: Sequence[Sequence[str]], gates: Mapping[str, spatial_gates.SpatialGate],
           budgets: Mapping[str, gate_budget.GateBudget], features: Mapping[str, tf.Tensor],
           options: steps.RunOptions) -> Gates:
  """Returns gates on all levels that are computed from the same features.

  Args:
    decisions: for every gate, the paths that it decides about.
    gates: names of paths, joined by `_` -> the gate that decides about them.
    budgets: path -> what moves the logits of its gate by the budget of the call; may be empty.
    features: `{level: [batch, height, width, channels]}`, finest first.
    options: `skip` computes the gates of all levels together, where each depends on one logit.

  Returns:
    For every path that leaves a level, `[batch, height, width, 1]`.
  """
  levels = list(features)
  present = {level: _numbers(decisions, level, levels) for level in levels}
  features = {level: own for level, own in features.items() if present[level]}
  if not features:
    return {}
  deciding = [gates['_'.join(paths)] for paths in decisions]
  numbers, maps = [present[level] for level in features], list(features.values())
  needs_levels = budgets and budget_control.moves_shifts(options.training)
  if (options.mode == 'skip' and not needs_levels
      and all(gate.decides_alone for gate in deciding)):
    names = [path for path, in decisions]
    decided = spatial_gates.convolve_together(deciding, maps, numbers, functools.partial(
        _activate, deciding[0], [budgets[name] for name in names if name in budgets], levels,
        options))
    return {(names[number], level): gate
            for level, own, of_level in zip(features, numbers, decided, strict=True)
            for number, gate in zip(own, of_level, strict=True)}
  if options.mode == 'skip':
    logits = spatial_gates.convolve_together(deciding, maps, numbers)
  else:
    logits = [[deciding[number].conv(x) for number in own] for own, x in zip(numbers, maps)]
  found: Gates = {}
  for number, (paths, gate) in enumerate(zip(decisions, deciding, strict=True)):
    of_gate = {level: of_level[number - own.start]
               for level, own, of_level in zip(features, numbers, logits) if number in own}
    if '_'.join(paths) in budgets:
      of_gate = budgets['_'.join(paths)](of_gate, training=options.training)
    for level, value in of_gate.items():
      existing = existing_paths(paths, level, levels)
      values = gate.decide(value, list(map(paths.index, existing)), options.gate_threshold)
      found.update(zip([(path, level) for path in existing],
                       tf.split(values, len(existing), axis=-1)))
  return found


def _numbers(decisions: Sequence[Sequence[str]], level: str, levels: Sequence[str]) -> range:
  """Returns the numbers of the decisions that are made on a level; they are side by side."""
  made = [number for number, paths in enumerate(decisions)
          if existing_paths(paths, level, levels)]
  return range(made[0], made[-1] + 1) if made else range(0)


def _activate(gate: spatial_gates.SpatialGate, budgets: Sequence[gate_budget.GateBudget],
              levels: Sequence[str], options: steps.RunOptions, logits: tf.Tensor,
              level_of_row: tf.Tensor) -> tf.Tensor:
  """Computes several gates on all levels at once.

  Args:
    gate: one of them; all have its activation.
    budgets: what moves the logits of each by the budget of the call; may be empty.
    levels: all levels, finest first.
    options: how gates run.
    logits: `[gates, batch, rows, columns]`, levels below one another.
    level_of_row: number of the level of every row.

  Returns:
    Gates of the shape of `logits`.
  """
  if budgets:
    scale, shift = (tf.gather(tf.stack(numbers), level_of_row, axis=2)[..., None]
                    for numbers in zip(*(budget.scale_and_shift(levels) for budget in budgets)))
    logits = logits * scale + shift
  return gate.activate(logits, options.gate_threshold)
