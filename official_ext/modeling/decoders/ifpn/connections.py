"""Connections between the levels of a pyramid, as the map of an implicit pyramid has them.

Each maps a list of levels, finest first, to a list of the same shapes and ends in a norm
of every level.  All have `prepare` and `run`, see weight_norm.py.

Reference: Tiancai Wang, Xiangyu Zhang, Jian Sun, Implicit Feature Pyramid Network for
Object Detection, https://arxiv.org/abs/2012.13563, Table 4; the references of single
connections are with them.
"""
import dataclasses
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.modeling.decoders.ifpn import weight_norm
from official_ext.ops import sampling


@dataclasses.dataclass(frozen=True)
class Parts:
  """Makes the parts that a connection is built of.

  Attributes:
    conv: called with `name`, `kernel_size`, and options of `WeightNormConv2D`.
    norm: called with `name`, and `initial_scale` if not 1.
    activation: between convolutions.
    output_scale: start of the scale of the norms that make the result.
    num_filters: channels of every level.
  """
  conv: Callable[..., weight_norm.WeightNormConv2D]
  norm: Callable[..., tf_keras.layers.Layer]
  activation: Callable[[tf.Tensor], tf.Tensor]
  output_scale: float
  num_filters: int


class Connection(tf_keras.layers.Layer):
  """What all parts of the map share: children by name, built and prepared together."""

  def __init__(self, parts: Parts, **kwargs):
    super().__init__(**kwargs)
    self._parts = parts
    self._part_layers: Dict[str, tf_keras.layers.Layer] = {}

  def _add(self, layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
    self._part_layers[layer.name] = layer
    return layer

  def _conv(self, name: str, kernel_size: int = 3, **options: Any) -> weight_norm.WeightNormConv2D:
    return self._add(self._parts.conv(name=name, kernel_size=kernel_size, **options))

  def _norm(self, name: str, is_output: bool = False) -> tf_keras.layers.Layer:
    scale = self._parts.output_scale if is_output else 1.0
    return self._add(self._parts.norm(name=name, initial_scale=scale))

  def build(self, input_shape: tf.TensorShape) -> None:
    layers = list(self._part_layers.values())
    convolutions.build_in_scope(layers, [[None, None, None, self._parts.num_filters]] * len(layers))
    super().build(input_shape)

  def prepare(self, dtype: tf.DType, watch: bool = False) -> Dict[str, Any]:
    """Returns what does not change during a solve, by part.

    Args:
      dtype: of the features.
      watch: let batch norm keep what it sees, for `update`.
    """
    return {name: layer.prepare(dtype, watch) for name, layer in self._part_layers.items()}

  def update(self, weights: Dict[str, Any]) -> None:
    """Moves the averages of batch norm by what one evaluation with these weights saw."""
    for name, layer in self._part_layers.items():
      layer.update(weights[name])

  def _do(self, weights: Dict[str, Any], name: str, features: tf.Tensor) -> tf.Tensor:
    return self._part_layers[name].run(weights[name], features)

  def _chain(self, weights: Dict[str, Any], names: Sequence[str],
             features: tf.Tensor) -> tf.Tensor:
    """Runs parts one after the other."""
    for name in names:
      features = self._do(weights, name, features)
    return features

  def _cost(self, names: Sequence[str], size: tf.Tensor) -> tf.Tensor:
    return weight_norm.chain_multiply_adds([self._part_layers[name] for name in names], size)

  def run(self, weights: Dict[str, Any], levels: List[tf.Tensor]) -> List[tf.Tensor]:
    """Maps levels `[batch, height, width, num_filters]` to the same shapes."""
    raise NotImplementedError

  def multiply_adds(self, sizes: List[tf.Tensor]) -> tf.Tensor:
    """Returns what one image costs, float64 scalar, for levels of these int32 `[2]` sizes."""
    raise NotImplementedError

  def call(self, levels: List[tf.Tensor]) -> List[tf.Tensor]:
    return self.run(self.prepare(levels[0].dtype), levels)


def same_size(features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Resizes where an image's levels are not halves, rounded up, of each other."""
  if features.shape[1:3].is_fully_defined() and target.shape[1:3].is_fully_defined():
    return sampling.resize_bilinear(features, target)
  equal = tf.reduce_all(tf.shape(features)[1:3] == tf.shape(target)[1:3])
  resized = tf.cond(equal, lambda: features, lambda: sampling.resize_bilinear(features, target))
  return tf.ensure_shape(resized, [None, *target.shape[1:3], features.shape[3]])


class NoConnection(Connection):
  """Levels stay apart; one norm with shared weights ends each."""

  def __init__(self, parts: Parts, num_levels: int, **kwargs):
    """Initializes the connection.

    Args:
      parts: what it is built of.
      num_levels: not needed.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    del num_levels
    super().__init__(parts, **kwargs)
    self._norm('norm', is_output=True)

  def run(self, weights, levels):
    return [self._do(weights, 'norm', features) for features in levels]

  def multiply_adds(self, sizes):
    return tf.constant(0.0, tf.float64)


class PyramidConnection(Connection):
  """Pyramid convolution: each level and its neighbors, summed (i-FPN, eq. 8).

  Kernels are those of Xinjiang Wang et al., Scale-Equalizing Pyramid Convolution for Object
  Detection, https://arxiv.org/abs/2005.03101: the same three for all levels.
  """

  def __init__(self, parts: Parts, num_levels: int, is_shared: bool = True, **kwargs):
    """Initializes the connection.

    Args:
      parts: what it is built of.
      num_levels: of the pyramid.
      is_shared: three kernels for all levels, or one for each pair of neighbors.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(parts, **kwargs)
    self._num_levels, self._is_shared = num_levels, is_shared
    for name in dict.fromkeys(self._names().values()):
      self._conv(name, strides=2 if name.startswith('finer') else 1)
    self._norm('norm', is_output=True)

  def _names(self):
    """Returns the convolution for each pair of levels: (target, source) -> name."""
    kinds = {-1: 'finer', 0: 'same', 1: 'coarser'}
    return {
        (i, i + step): kind if self._is_shared else f'{kind}_{i}'
        for i in range(self._num_levels) for step, kind in kinds.items()
        if 0 <= i + step < self._num_levels}

  def run(self, weights, levels):
    summed = [[] for _ in levels]
    for (i, j), name in self._names().items():
      outputs = self._do(weights, name, levels[j])
      if j > i:
        outputs = sampling.resize_bilinear(outputs, levels[i])
      summed[i].append(same_size(outputs, levels[i]) if j < i else outputs)
    return [self._do(weights, 'norm', tf.add_n(outputs)) for outputs in summed]

  def multiply_adds(self, sizes):
    return tf.add_n([self._cost([name], sizes[j]) for (_, j), name in self._names().items()])


class DenseConnection(Connection):
  """Every level with every other, as in the last stage of HRNet.

  Reference: Ke Sun et al., Deep High-Resolution Representation Learning for Human Pose
  Estimation, https://arxiv.org/abs/1902.09212.
  """

  def __init__(self, parts: Parts, num_levels: int, **kwargs):
    """Initializes the connection.

    Args:
      parts: what it is built of.
      num_levels: of the pyramid.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(parts, **kwargs)
    self._num_levels = num_levels
    for i, j in np.ndindex(num_levels, num_levels):
      for name in self._names(i, j):
        self._conv(name, 3 if i > j else 1, strides=2 if i > j else 1)
    self._norm('norm', is_output=True)

  @staticmethod
  def _names(i: int, j: int) -> List[str]:
    """Returns the convolutions from level j to level i: one halving each, or a 1x1."""
    return [f'{j}_to_{i}_{step}' for step in range(max(i - j, 1))]

  def run(self, weights, levels):
    results = []
    for i, target in enumerate(levels):
      parts = []
      for j, features in enumerate(levels):
        first, *rest = self._names(i, j)
        features = self._do(weights, first, features)
        for name in rest:
          features = self._do(weights, name, self._parts.activation(features))
        if j > i:
          features = sampling.resize_nearest(features, target)
        parts.append(same_size(features, target) if j < i else features)
      results.append(self._do(weights, 'norm', tf.add_n(parts)))
    return results

  def multiply_adds(self, sizes):
    return tf.add_n([
        self._cost(self._names(i, j), sizes[j])
        for i, j in np.ndindex(self._num_levels, self._num_levels)])
