"""A block of the dynamic head, its gates and its cost.

Reference: Lin Song et al., Fine-Grained Dynamic Head for Object Detection,
https://arxiv.org/abs/2012.03519, sections 2.2 (structure and gates) and 2.3 (budget).
"""
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf, tf_keras

from official_ext.modeling.heads.dynamic_head import decisions
from official_ext.modeling.heads.dynamic_head import gate_budget
from official_ext.modeling.heads.dynamic_head import spatial_gates
from official_ext.modeling.heads.dynamic_head import steps
from official_ext.modeling.layers import convolutions
from official_ext.ops import checks
from official_ext.ops import sparse_block

STEP_KINDS = ('gated', 'fixed', 'absent')


class BlockCost(NamedTuple):
  """Multiply-adds of a block; float64, which holds their sums exactly.

  Attributes:
    fixed: scalar, the parts that always run.
    gated: scalar, the parts that gates decide about, all gates open.
    executed: `[batch]`, the part of `gated` that runs if only active positions are computed.
    budget: `[batch]`, the sum of eq. 4 over the gated paths: their cost per position, norms
      included, weighted by the largest gate that needs the position.
    full_budget: scalar, `budget` with all gates at 1.
    gates: scalar, part of `fixed`: the convolutions that compute the gates.
    messages: scalar, part of `fixed`: the gated convolutions between levels.
    open_messages: `[batch]`, the part of `messages` where their gates are open.
  """
  fixed: tf.Tensor
  gated: tf.Tensor
  executed: tf.Tensor
  budget: tf.Tensor
  full_budget: tf.Tensor
  gates: tf.Tensor
  messages: tf.Tensor
  open_messages: tf.Tensor


class BlockResult(NamedTuple):
  """The result of a block.

  Attributes:
    outputs: `{level: [batch, height, width, channels]}`, finest first.
    gates: `(path, level that it leaves)` -> `[batch, height, width, 1]`.
    dropped_tiles: int32 `[batch]`, active tiles that were not computed, summed over levels.
  """
  outputs: Mapping[str, tf.Tensor]
  gates: decisions.Gates
  dropped_tiles: tf.Tensor


def sum_costs(costs: Iterable[BlockCost]) -> BlockCost:
  """Returns the cost of several blocks together."""
  costs = list(costs)
  return BlockCost(**{field: sum(getattr(cost, field) for cost in costs)
                      for field in BlockCost._fields})


def _sum_positions(values: tf.Tensor) -> tf.Tensor:
  """Returns the sum over positions, float64 `[batch]`."""
  return tf.reduce_sum(tf.cast(values, tf.float64), [1, 2, 3])


def _largest_around(gate: tf.Tensor) -> tf.Tensor:
  """Returns the largest of the 3x3 gates around each position, which need its first convolution."""
  return tf.nn.max_pool2d(gate, 3, 1, 'SAME')


@tf_keras.utils.register_keras_serializable(package='official_ext')
class DynamicBlock(tf_keras.layers.Layer):
  """Runs the scale step on all levels, then the depth step on all levels.

  All levels share the weights.  Every path has a spatial gate of its own, computed from the
  features that the path gets.

  Reference: see the module.

  Differs: in Figure 2 and eq. 2 all paths start in parallel from the features of a level.  Here
  the depth step, and its gate, get the result of the scale step, as in the reference's code.

  With the activation `softmax` one gate per position decides between all paths, from the block's
  input.  This is our reading of Table 2; the reference's code has no softmax.
  """

  def __init__(self, scale_step: str = 'gated', depth_step: str = 'gated',
               activation: str = 'tanh', tau: float = 1.5, coarse: bool = False,
               budget_input: bool = False, depth_update: str = 'add',
               kernel_regularizer: Any | None = None, **kwargs):
    """Initializes the block.

    Args:
      scale_step: `gated`; `fixed`, always on and without gates; or `absent`.
      depth_step: the same choice for the depth step.
      activation: activation of the gates, see `spatial_gates.SpatialGate`.
      tau: parameter of the activation `tanh`.
      coarse: whether gates decide once per image and level.
      budget_input: whether gates follow the budget of a call, see `gate_budget.GateBudget`.
      depth_update: `add` or `replace`, see `steps.DepthStep`.
      kernel_regularizer: regularizer of kernels, and of the two scalars of the scale step.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: an unknown option, no step at all, softmax without all of its paths, or gates
        that can follow no budget.
    """
    super().__init__(**kwargs)
    self._options = {'scale_step': scale_step, 'depth_step': depth_step, 'activation': activation,
                     'tau': tau, 'coarse': coarse, 'budget_input': budget_input,
                     'depth_update': depth_update}
    checks.check_one_of('depth_update', depth_update, steps.UPDATES)
    checks.check_one_of('scale_step', scale_step, STEP_KINDS)
    checks.check_one_of('depth_step', depth_step, STEP_KINDS)
    if scale_step == depth_step == 'absent':
      raise checks.ArgumentError(
          'scale_step', "scale_step and depth_step are both 'absent', which leaves nothing; one of "
          "them must be 'gated' or 'fixed'.")
    if activation == 'softmax' and not scale_step == depth_step == 'gated':
      raise checks.ArgumentError(
          'activation', "activation is 'softmax', which chooses between scale and depth paths: it "
          f"needs scale_step 'gated', which is {scale_step!r}, and depth_step 'gated', which is "
          f'{depth_step!r}.')
    if budget_input and (activation != 'tanh' or depth_step != 'gated'):
      raise checks.ArgumentError(
          'budget_input', "budget_input is true, but nothing could be saved: activation must be "
          f"'tanh', which is {activation!r}, and depth_step 'gated', which is {depth_step!r}.")
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    common = {'kernel_regularizer': self._kernel_regularizer, 'dtype': self.dtype_policy}
    self.scale = self.depth = None
    if scale_step != 'absent':
      self.scale = steps.ScaleStep(scale_step == 'gated', name='scale', **common)
    if depth_step != 'absent':
      self.depth = steps.DepthStep(depth_update, name='depth', **common)
    gated = [path for path in decisions.PATHS
             if (depth_step if path == 'depth' else scale_step) == 'gated']
    # One list per gate: the paths that it decides about.
    self._decisions = [gated] if activation == 'softmax' else [[path] for path in gated]
    self.gates = {
        '_'.join(paths): spatial_gates.SpatialGate(
            len(paths), activation, tau, coarse, name=f'{"_".join(paths)}_gate', **common)
        for paths in self._decisions}
    # Path -> what moves the logits of its gate; made when the levels are known.
    self.gate_budgets: dict[str, gate_budget.GateBudget] = {}

  def build(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
    shape = next(iter(input_shape.values()))
    if self.scale is not None:
      convolutions.build_in_scope([self.scale], [input_shape])
    if self.depth is not None:
      convolutions.build_in_scope([self.depth], [input_shape])
    convolutions.build_in_scope(list(self.gates.values()), [shape] * len(self.gates))
    if self._options['budget_input']:
      self._build_budgets(list(input_shape))
    super().build(input_shape)

  def _build_budgets(self, levels: Sequence[str]) -> None:
    for path, in self._decisions:
      existing = [level for level in levels if decisions.existing_paths([path], level, levels)]
      if existing:
        self.gate_budgets[path] = gate_budget.GateBudget(
            existing, path == 'depth', dtype=self.gates[path].dtype, name=f'{path}_budget')
    convolutions.build_in_scope(list(self.gate_budgets.values()), [None] * len(self.gate_budgets))

  def gate_keys(self, levels: Sequence[str]) -> list[decisions.GateKey]:
    """Returns path and level of all gates.

    Args:
      levels: levels of the features, finest first.
    """
    return [(path, level) for paths in self._decisions for level in levels
            for path in decisions.existing_paths(paths, level, levels)]

  def call(self, features: Mapping[str, tf.Tensor],
           options: steps.RunOptions = steps.DEFAULT_OPTIONS) -> BlockResult:
    """Runs the block.

    Args:
      features: `{level: [batch, height, width, channels]}`, finest first.
      options: how the gates and the depth step run.

    Returns:
      Outputs of the shapes of `features`, gates, and the number of dropped tiles.
    """
    # The depth step's own gate gets the result of the scale step.
    late = [paths for paths in self._decisions if paths == ['depth']]
    early = [paths for paths in self._decisions if paths != ['depth']]
    gates = decisions.decide(early, self.gates, self.gate_budgets, features, options)
    if self.scale is not None:
      features = self.scale(
          features, gates, may_skip=options.mode == 'skip' and not options.training)
    gates.update(decisions.decide(late, self.gates, self.gate_budgets, features, options))
    if self.depth is None:
      first = next(iter(features.values()))
      return BlockResult(features, gates, tf.zeros(tf.shape(first)[:1], tf.int32))
    own = {level: gate for (path, level), gate in gates.items() if path == 'depth'}
    outputs, dropped = self.depth(features, own or None, options=options)
    return BlockResult(outputs, gates, dropped)

  def cost(self, features: Mapping[str, tf.Tensor], gates: decisions.Gates) -> BlockCost:
    """Counts the multiply-adds of one call.

    Gates and the depthwise convolutions between levels always run.  In the budget those
    convolutions count where their gates are open, as in eq. 4.

    Args:
      features: the features that `call` got.
      gates: the gates that `call` returned.
    """
    levels, first = list(features), next(iter(features.values()))
    channels = first.shape[-1]
    tap, norm = (tf.constant(count * channels, tf.float64) for count in (9, 1))
    conv = tap * channels
    # Sizes are read at every call: OpenVINO 2026.4 never finishes transforming costs of known ones.
    sizes = {level: tf.cast(tf.shape(own)[1] * tf.shape(own)[2], tf.float64)
             for level, own in features.items()}
    fixed = gated = full_budget = gate_cost = messages = tf.constant(0, tf.float64)
    executed = budget = open_messages = tf.zeros(tf.shape(first)[:1], tf.float64)
    for level, size in sizes.items():
      logits = sum(len(paths) for paths in self._decisions
                   if decisions.existing_paths(paths, level, levels))
      neighbors = len(steps.neighbor_levels(level, levels)) if self.scale is not None else 0
      gate_cost += tap * size * logits
      fixed += tap * size * (logits + neighbors)
      if self.depth is not None and ('depth', level) not in gates:
        fixed += 2 * conv * size
    for (path, level), gate in gates.items():
      weight = self._budget_weight(gate)
      if path == 'depth':
        gated += 2 * conv * sizes[level]
        executed += sparse_block.residual_block_multiply_adds(gate, channels)
        budget += (conv + norm) * (_sum_positions(weight) + _sum_positions(_largest_around(weight)))
        full_budget += 2 * (conv + norm) * sizes[level]
      else:
        messages += tap * sizes[level]
        open_messages += tap * _sum_positions(tf.sign(gate))
        budget += (tap + norm) * _sum_positions(weight)
        full_budget += (tap + norm) * sizes[level]
    return BlockCost(fixed=fixed, gated=gated, executed=executed, budget=budget,
                     full_budget=full_budget, gates=gate_cost, messages=messages,
                     open_messages=open_messages)

  def _budget_weight(self, gate: tf.Tensor) -> tf.Tensor:
    """Returns what a position counts in a budget."""
    # Softmax shuts no gate, so the cost does not depend on how it shares 1 between the paths.
    if self._options['activation'] == 'softmax':
      return tf.sign(gate)
    # A share that is given is one of what runs; the gradient is that of the gate.
    if self._options['budget_input']:
      return gate + tf.stop_gradient(tf.sign(gate) - gate)
    return gate

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(), **self._options,
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }
