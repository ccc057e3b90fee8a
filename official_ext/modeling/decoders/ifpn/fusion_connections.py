"""Bi-FPN and NAS-FPN as connections of an implicit pyramid: graphs of nodes that fuse maps.

Their nodes end in norms, so no norm is added at the end.
"""
from collections.abc import Sequence
from typing import Any

from official.vision.modeling.decoders import nasfpn
import tensorflow as tf

from official_ext.modeling.decoders.ifpn import connections
from official_ext.ops import checks
from official_ext.ops import sampling


class BiFPNConnection(connections.Connection):
  """One block of Bi-FPN: top-down, then bottom-up, with learned non-negative weights.

  Reference: Mingxing Tan, Ruoming Pang, Quoc V. Le, EfficientDet: Scalable and Efficient
  Object Detection, https://arxiv.org/abs/1911.09070.

  Differs: group norm instead of batch norm, whose statistics would couple images.
  """

  EPSILON = 1e-4

  def __init__(self, pieces: connections.PieceFactory, num_levels: int, **kwargs):
    """Initializes the connection.

    Args:
      pieces: makes convolutions and norms.
      num_levels: number of levels, at least 2.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: there is one level only.
    """
    super().__init__(pieces, **kwargs)
    if num_levels < 2:
      raise checks.ArgumentError(
          'cross_scale', f'cross_scale `bifpn` joins at least 2 levels, not {num_levels}: choose '
          'another cross_scale, or a larger max_level.')
    self._nodes = self._graph(num_levels)
    for name, _, _ in self._nodes:
      self._conv(f'{name}_depthwise', 3, depthwise=True, use_bias=False)
      self._conv(f'{name}_pointwise', 1, use_bias=False)
      self._norm(f'{name}_norm', is_output=name.startswith('out'))

  @staticmethod
  def _graph(num_levels: int) -> list[tuple[str, int, list[tuple[str, int]]]]:
    """Returns the nodes in the order of computation: name, level, names and levels of inputs."""
    last = num_levels - 1
    nodes = []
    above = f'in_{last}'
    for level in range(last - 1, 0, -1):
      nodes.append((f'down_{level}', level, [(f'in_{level}', level), (above, level + 1)]))
      above = f'down_{level}'
    nodes.append(('out_0', 0, [('in_0', 0), (above, 1)]))
    for level in range(1, last + 1):
      fused = [(f'in_{level}', level)] + [(f'down_{level}', level)] * (level < last)
      nodes.append((f'out_{level}', level, [*fused, (f'out_{level - 1}', level - 1)]))
    return nodes

  def build(self, input_shape: tf.TensorShape) -> None:
    self._fusion = {
        name: self.add_weight(f'{name}_weights', [len(fused)], initializer='ones')
        for name, _, fused in self._nodes}
    super().build(input_shape)

  def prepare(self, dtype: tf.DType) -> dict[str, Any]:
    weights = super().prepare(dtype)
    for name, variable in self._fusion.items():
      positive = tf.nn.relu(variable)
      share = positive / (tf.reduce_sum(positive) + self.EPSILON)
      weights[f'{name}_weights'] = tf.cast(share, dtype)
    return weights

  def run(self, weights: dict[str, Any], features: list[tf.Tensor]) -> list[tf.Tensor]:
    maps = {f'in_{level}': one for level, one in enumerate(features)}
    for name, level, fused in self._nodes:
      target = features[level]
      shares = tf.unstack(weights[f'{name}_weights'])
      node = tf.add_n([
          share * _to_level(maps[source], source_level, level, target, pool_size=3)
          for share, (source, source_level) in zip(shares, fused)])
      maps[name] = self._chain(
          weights, [f'{name}_depthwise', f'{name}_pointwise', f'{name}_norm'], tf.nn.silu(node))
    return [maps[f'out_{level}'] for level in range(len(features))]

  def multiply_adds(self, sizes: list[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([
        self._cost([f'{name}_depthwise', f'{name}_pointwise'], sizes[level])
        for name, level, _ in self._nodes])


def _to_level(features: tf.Tensor, source: int, level: int, target: tf.Tensor,
              pool_size: int = 0) -> tf.Tensor:
  """Resizes a map to another level: nearest neighbor to a finer one, max-pooling to a coarser one.

  Args:
    features: `[batch, height, width, channels]`.
    source: level of `features`.
    level: level of the result.
    target: a map in the size of the result.
    pool_size: height and width in pixels of the pooling window; 0: as large as its stride.

  Returns:
    `[batch, target_height, target_width, channels]`.
  """
  if source > level:
    return sampling.resize_nearest(features, target)
  if source < level:
    stride = 2**(level - source)
    features = tf.nn.max_pool2d(features, pool_size or stride, stride, 'SAME')
    return connections.same_size(features, target)
  return features


class NASFPNConnection(connections.Connection):
  """One NAS-FPN for five levels: the seven merging cells that Model Garden lists.

  Reference: Golnaz Ghiasi, Tsung-Yi Lin, Quoc V. Le, NAS-FPN: Learning Scalable Feature
  Pyramid Architecture for Object Detection, https://arxiv.org/abs/1904.07392.

  Differs: group norm instead of batch norm, whose statistics would couple images.
  """

  NUM_LEVELS = 5

  def __init__(self, pieces: connections.PieceFactory, num_levels: int, **kwargs):
    """Initializes the connection.

    Args:
      pieces: makes convolutions and norms.
      num_levels: number of levels, which must be 5.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: there are not five levels.
    """
    super().__init__(pieces, **kwargs)
    if num_levels != self.NUM_LEVELS:
      raise checks.ArgumentError(
          'cross_scale', f'cross_scale `nasfpn` was found for {self.NUM_LEVELS} levels, not '
          f'{num_levels}: choose another cross_scale, min_level or max_level.')
    self._cells = self._graph(nasfpn.build_block_specs())
    for index, (_, _, _, is_output) in enumerate(self._cells):
      self._conv(f'cell_{index}', 3)
      self._norm(f'norm_{index}', is_output=is_output)

  def _graph(self, specs: Sequence[nasfpn.BlockSpec]):
    """Returns level, way to combine, inputs and whether it is an output, for every cell.

    An output cell also takes the maps of its level that no cell has used so far.
    """
    levels = list(range(self.NUM_LEVELS))
    uses = [0] * len(levels)
    cells = []
    for spec in specs:
      level, inputs = spec.level - 3, list(spec.input_offsets)
      for index in inputs:
        uses[index] += 1
      if spec.is_output:
        idle = [i for i, count in enumerate(uses) if not count and levels[i] == level]
        for index in idle:
          uses[index] += 1
        inputs += idle
      cells.append((level, spec.combine_fn, inputs, spec.is_output))
      levels.append(level)
      uses.append(0)
    self._levels = levels
    return cells

  def run(self, weights: dict[str, Any], features: list[tf.Tensor]) -> list[tf.Tensor]:
    maps, outputs = list(features), {}
    for index, (level, combine, inputs, is_output) in enumerate(self._cells):
      resized = [_to_level(maps[i], self._levels[i], level, features[level]) for i in inputs]
      if combine == 'attention':
        coarse, fine = resized[:2]
        if self._levels[inputs[0]] < self._levels[inputs[1]]:
          coarse, fine = fine, coarse
        attention = tf.sigmoid(tf.reduce_max(coarse, [1, 2], keepdims=True))
        resized[:2] = [coarse, fine * attention]
      node = self._pieces.activation(tf.add_n(resized))
      maps.append(self._chain(weights, [f'cell_{index}', f'norm_{index}'], node))
      if is_output:
        outputs[level] = maps[-1]
    return [outputs[level] for level in range(len(features))]

  def multiply_adds(self, sizes: list[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([
        self._cost([f'cell_{index}'], sizes[level])
        for index, (level, *_) in enumerate(self._cells)])
