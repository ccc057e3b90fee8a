"""A block of the dynamic head, its gates, and what it costs.

Reference: Lin Song et al., Fine-Grained Dynamic Head for Object Detection,
https://arxiv.org/abs/2012.03519, sections 3.2 and 3.3.
"""
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.modeling.heads.dynamic_head import steps
from official_ext.modeling.heads.dynamic_head import spatial_gates

# Path and level that it leaves.
Key = Tuple[str, str]
Gates = Dict[Key, tf.Tensor]

STEPS = ('gated', 'fixed', 'absent')
# What leaves a position: to the next coarser level, to the next finer one, and on its own.
PATHS = ('coarser', 'finer', 'depth')


class Cost(NamedTuple):
  """Multiply-adds of a block for each image; float64, which holds their sums exactly.

  Attributes:
    fixed: scalar, what always runs.
    gated: scalar, what gates decide about, all open.
    executed: `[batch]`, what of `gated` runs when only active positions are computed.
    budget: `[batch]`, the sum of eq. 4 over the gated paths: their cost per position, norms
      included, weighted by the largest gate that a position serves.
    full_budget: scalar, the same with all gates at 1.
  """
  fixed: tf.Tensor
  gated: tf.Tensor
  executed: tf.Tensor
  budget: tf.Tensor
  full_budget: tf.Tensor


def _existing(paths: Sequence[str], level: str, levels: Sequence[str]) -> List[str]:
  """Returns those of the paths that there are on a level."""
  neighbors = steps.neighbors_of(level, levels)
  return [path for path in paths if path == 'depth' or path in neighbors]


def _sum(gate: tf.Tensor) -> tf.Tensor:
  """Returns the sum over positions, float64 `[batch]`."""
  return tf.reduce_sum(tf.cast(gate, tf.float64), [1, 2, 3])


def _served(gate: tf.Tensor) -> tf.Tensor:
  """Returns for each input position of a 3x3 convolution the largest gate that it serves."""
  return tf.nn.max_pool2d(gate, 3, 1, 'SAME')


@tf_keras.utils.register_keras_serializable(package='official_ext')
class DynamicBlock(tf_keras.layers.Layer):
  """The scale step on all levels, then the depth step on each; weights shared by the levels.

  Every path has a spatial gate of its own, computed from what the path gets.

  Reference: see the module.  With `softmax` one gate decides between all paths that leave a
  position, from the block's input (our reading of Table 2).
  """

  def __init__(self, scale_step: str = 'gated', depth_step: str = 'gated',
               activation: str = 'tanh', tau: float = 1.5, coarse: bool = False,
               kernel_regularizer: Optional[Any] = None, **kwargs):
    """Initializes the block.

    Args:
      scale_step: `gated`; `fixed`, always on and without gates; or `absent`.
      depth_step: the same.
      activation: of the gates, see `spatial_gates.SpatialGate`.
      tau: of the activation `tanh`.
      coarse: gates decide once per image and level.
      kernel_regularizer: of kernels and of the weights between scales.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ValueError: an unknown option, no step at all, or softmax without all of its paths.
    """
    super().__init__(**kwargs)
    self._options = {'scale_step': scale_step, 'depth_step': depth_step, 'activation': activation,
                     'tau': tau, 'coarse': coarse}
    for option, value in (('scale_step', scale_step), ('depth_step', depth_step)):
      if value not in STEPS:
        raise ValueError(f'{option} is {value!r}; allowed are {", ".join(STEPS)}: change '
                         f'head.tower.dynamic.{option}.')
    if scale_step == depth_step == 'absent':
      raise ValueError('scale_step and depth_step are both absent, which leaves nothing: change '
                       'head.tower.dynamic.scale_step or head.tower.dynamic.depth_step.')
    if activation == 'softmax' and not scale_step == depth_step == 'gated':
      raise ValueError('activation `softmax` chooses between scale and depth paths: it needs '
                       'head.tower.dynamic.scale_step and head.tower.dynamic.depth_step `gated`.')
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    common = {'kernel_regularizer': self._kernel_regularizer, 'dtype': self.dtype_policy}
    self.scale = self.depth = None
    if scale_step != 'absent':
      self.scale = steps.ScaleStep(scale_step == 'gated', name='scale', **common)
    if depth_step != 'absent':
      self.depth = steps.DepthStep(name='depth', **common)
    gated = [path for path in PATHS if (depth_step if path == 'depth' else scale_step) == 'gated']
    # The paths that one gate decides about.
    self._decisions = [gated] if activation == 'softmax' else [[path] for path in gated]
    self.gates = {
        '_'.join(paths): spatial_gates.SpatialGate(
            len(paths), activation, tau, coarse, name=f'{"_".join(paths)}_gate', **common)
        for paths in self._decisions}

  def build(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
    shape = next(iter(input_shape.values()))
    steps = [(step, where) for step, where in ((self.scale, input_shape), (self.depth, shape))
             if step is not None]
    convolutions.build_in_scope(*zip(*steps))
    convolutions.build_in_scope(list(self.gates.values()), [shape] * len(self.gates))
    super().build(input_shape)

  def gate_keys(self, levels: Sequence[str]) -> List[Key]:
    """Returns path and level of all gates on these levels, finest first."""
    return [(path, level) for paths in self._decisions for level in levels
            for path in _existing(paths, level, levels)]

  def call(self, features: Mapping[str, tf.Tensor], execution: str = 'mask',
           threshold: float = 0.0, tile_capacity: float = 1.0
           ) -> Tuple[Dict[str, tf.Tensor], Gates, Optional[tf.Tensor]]:
    """Runs the block.

    Args:
      features: `{level: [batch, height, width, channels]}`, finest first.
      execution: of gated depth steps, see `steps.DepthStep`.
      threshold: gates up to this are 0.
      tile_capacity: of the execution `tiles`.

    Returns:
      The block's output, of the shapes of `features`; gates `[batch, height, width, 1]` of the
      level that a path leaves, by path and level; and of `tiles` the number of active ones
      without room, int32 `[batch]`, otherwise None.
    """
    outputs, gates, dropped = dict(features), {}, None
    for paths in self._decisions:
      if paths != ['depth']:
        gates.update(self._decide(paths, outputs, threshold))
    if self.scale is not None:
      outputs = self.scale(outputs, gates)
    if ['depth'] in self._decisions:
      gates.update(self._decide(['depth'], outputs, threshold))
    if self.depth is not None:
      results = {level: self.depth(own, gates.get(('depth', level)), execution, tile_capacity)
                 for level, own in outputs.items()}
      outputs = {level: output for level, (output, _) in results.items()}
      counts = [count for _, count in results.values() if count is not None]
      dropped = tf.add_n(counts) if counts else None
    return outputs, gates, dropped

  def _decide(self, paths, features, threshold):
    """Returns the gates of some paths, each from the features of the level that it leaves."""
    gate, gates = self.gates['_'.join(paths)], {}
    for level, own in features.items():
      existing = _existing(paths, level, list(features))
      if existing:
        decided = gate(own, [paths.index(path) for path in existing], threshold)
        for path, one in zip(existing, tf.split(decided, len(existing), axis=-1)):
          gates[path, level] = one
    return gates

  def cost(self, features: Mapping[str, tf.Tensor], gates: Gates) -> Cost:
    """Counts what the block cost.

    Gates and the depthwise convolutions between levels always run.  In the budget those
    convolutions count where their gates are open, as in eq. 4.

    Args:
      features: what `call` was called with.
      gates: what `call` returned.
    """
    first = next(iter(features.values()))
    tap, norm = (tf.constant(count * first.shape[-1], tf.float64) for count in (9, 1))
    conv = tap * first.shape[-1]
    sizes = {level: tf.cast(tf.shape(own)[1] * tf.shape(own)[2], tf.float64)
             for level, own in features.items()}
    fixed = gated = full_budget = tf.constant(0, tf.float64)
    executed = budget = tf.zeros(tf.shape(first)[:1], tf.float64)
    for level, size in sizes.items():
      logits = sum(len(paths) for paths in self._decisions
                   if _existing(paths, level, list(features)))
      messages = len(steps.neighbors_of(level, list(features))) if self.scale else 0
      fixed += tap * size * (logits + messages)
      if self.depth is not None and ('depth', level) not in gates:
        fixed += 2 * conv * size
    for (path, level), gate in gates.items():
      # Softmax shuts nothing: its cost does not depend on how the shares lie.
      weight = tf.sign(gate) if self._options['activation'] == 'softmax' else gate
      if path == 'depth':
        gated += 2 * conv * sizes[level]
        executed += conv * (_sum(gate > 0) + _sum(_served(gate) > 0))
        budget += (conv + norm) * (_sum(weight) + _sum(_served(weight)))
        full_budget += 2 * (conv + norm) * sizes[level]
      else:
        budget += (tap + norm) * _sum(weight)
        full_budget += (tap + norm) * sizes[level]
    return Cost(fixed, gated, executed, budget, full_budget)

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(), **self._options,
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }
