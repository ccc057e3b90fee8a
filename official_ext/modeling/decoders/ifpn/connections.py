"""Connections between the levels of a pyramid, as the map of an implicit pyramid has them.

A connection maps a list of levels, finest first, to a list of the same shapes, and a norm
follows on every level.

Reference: Tiancai Wang, Xiangyu Zhang, Jian Sun, Implicit Feature Pyramid Network for
Object Detection, https://arxiv.org/abs/2012.13563, Table 4; the docstring of each connection has
the reference of its own.
"""
from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from official_ext.modeling.decoders.ifpn import weight_norm
from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import norms
from official_ext.modeling.layers import prepared
from official_ext.ops import sampling


@dataclasses.dataclass(frozen=True)
class PieceFactory:
  """Makes the convolutions and norms that a connection is built of.

  Attributes:
    conv: makes a convolution from `name`, `kernel_size`, and options of `WeightNormConv2D`.
    deformable_conv: makes a deformable one of the same arguments.
    norm: makes a norm from `name` and `initial_scale`.
    activation: the function between convolutions.
    output_scale: initial scale of the norms that make the result.
    num_filters: channels of every level.
  """
  conv: Callable[..., weight_norm.WeightNormConv2D]
  deformable_conv: Callable[..., weight_norm.WeightNormConv2D]
  norm: Callable[..., prepared.PreparedLayer]
  activation: Callable[[tf.Tensor], tf.Tensor]
  output_scale: float
  num_filters: int


class Connection(prepared.PreparedLayer):
  """Base of connections and maps: holds pieces by name, builds and prepares them together."""

  def __init__(self, pieces: PieceFactory, **kwargs):
    super().__init__(**kwargs)
    self._pieces = pieces
    self._part_layers: dict[str, prepared.PreparedLayer] = {}

  def _add(self, layer: prepared.PreparedLayer) -> Any:
    self._part_layers[layer.name] = layer
    return layer

  def _conv(self, name: str, kernel_size: int = 3, is_deformable: bool = False,
            **options: Any) -> weight_norm.WeightNormConv2D:
    make = self._pieces.deformable_conv if is_deformable else self._pieces.conv
    return self._add(make(name=name, kernel_size=kernel_size, **options))

  def _norm(self, name: str, is_output: bool = False) -> prepared.PreparedLayer:
    scale = self._pieces.output_scale if is_output else 1.0
    return self._add(self._pieces.norm(name=name, initial_scale=scale))

  def build(self, input_shape: tf.TensorShape) -> None:
    layers = list(self._part_layers.values())
    shape = [None, None, None, self._pieces.num_filters]
    convolutions.build_in_scope(layers, [shape] * len(layers))
    super().build(input_shape)

  def prepare(self, dtype: tf.DType) -> dict[str, Any]:
    """Returns the weights of every piece, by its name."""
    return {name: layer.prepare(dtype) for name, layer in self._part_layers.items()}

  def watch(self, weights: dict[str, Any]) -> dict[str, Any]:
    """Returns the same weights, with which batch norms also keep what `update` needs."""
    return {**weights, **{name: layer.watch(weights[name]) for name, layer in self._averaging()}}

  def update(self, weights: dict[str, Any]) -> None:
    """Moves the averages of batch norms by what `run` saw with weights that `watch` returned."""
    for name, layer in self._averaging():
      layer.update(weights[name])

  def _averaging(self) -> list[Any]:
    """Returns names and layers of the pieces that are, or may contain, batch norms."""
    return [(name, layer) for name, layer in self._part_layers.items()
            if isinstance(layer, (norms.FrozenBatchNorm, Connection))]

  def _run_piece(self, weights: dict[str, Any], name: str, features: tf.Tensor) -> tf.Tensor:
    return self._part_layers[name].run(weights[name], features)

  def _chain(self, weights: dict[str, Any], names: Sequence[str],
             features: tf.Tensor) -> tf.Tensor:
    """Runs pieces one after the other."""
    for name in names:
      features = self._run_piece(weights, name, features)
    return features

  def _cost(self, names: Sequence[str], size: tf.Tensor) -> tf.Tensor:
    return weight_norm.chain_multiply_adds([self._part_layers[name] for name in names], size)

  def run(self, weights: dict[str, Any], features: Any) -> Any:
    """Maps levels `[batch, height, width, num_filters]` to the same shapes."""
    raise NotImplementedError

  def multiply_adds(self, sizes: Any) -> tf.Tensor:
    """Returns the multiply-adds of one image, float64 scalar.

    Args:
      sizes: int32 `[2]`, height and width, of each level.
    """
    raise NotImplementedError


def same_size(features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Returns features in the size of another map, resized only if the two differ.

  They differ if an image's levels are not halves, rounded up, of each other.

  Args:
    features: `[batch, height, width, channels]`.
    target: `[batch, target_height, target_width, ...]`.

  Returns:
    `[batch, target_height, target_width, channels]`.
  """
  if features.shape[1:3].is_fully_defined() and target.shape[1:3].is_fully_defined():
    return sampling.resize_bilinear(features, target)
  equal = tf.reduce_all(tf.shape(features)[1:3] == tf.shape(target)[1:3])
  resized = tf.cond(equal, lambda: features, lambda: sampling.resize_bilinear(features, target))
  return tf.ensure_shape(resized, [None, *target.shape[1:3], features.shape[3]])


class NoConnection(Connection):
  """Keeps levels apart; one norm, whose weights all levels share, follows."""

  def __init__(self, pieces: PieceFactory, num_levels: int, **kwargs):
    """Initializes the connection.

    Args:
      pieces: makes convolutions and norms.
      num_levels: number of levels, which does not matter here.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    del num_levels
    super().__init__(pieces, **kwargs)
    self._norm('norm', is_output=True)

  def run(self, weights: dict[str, Any], features: list[tf.Tensor]) -> list[tf.Tensor]:
    return [self._run_piece(weights, 'norm', level) for level in features]

  def multiply_adds(self, sizes: list[tf.Tensor]) -> tf.Tensor:
    return tf.constant(0.0, tf.float64)


class PyramidConnection(Connection):
  """Pyramid convolution: each level and its neighbors, summed (i-FPN, eq. 8).

  Reference: Xinjiang Wang et al., Scale-Equalizing Pyramid Convolution for Object
  Detection, https://arxiv.org/abs/2005.03101.

  Differs: eq. 8 of i-FPN writes a kernel W_ij for each pair of levels.  All levels share three
  kernels, as in the pyramid convolution that the paper builds on; `is_shared=False` is eq. 8 to
  the letter.
  """

  def __init__(self, pieces: PieceFactory, num_levels: int, is_shared: bool = True,
               is_deformable: bool = False, **kwargs):
    """Initializes the connection.

    Args:
      pieces: makes convolutions and norms.
      num_levels: number of levels.
      is_shared: whether all levels share three kernels, or each pair of neighbors has its own.
      is_deformable: whether the kernels sample at offsets, which each computes from its input.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(pieces, **kwargs)
    self._num_levels, self._is_shared = num_levels, is_shared
    for name in dict.fromkeys(self._names().values()):
      self._conv(name, is_deformable=is_deformable, strides=2 if name.startswith('finer') else 1)
    self._norm('norm', is_output=True)

  def _names(self):
    """Returns the convolution for each pair of levels: (target, source) -> name."""
    kinds = {-1: 'finer', 0: 'same', 1: 'coarser'}
    return {
        (i, i + step): kind if self._is_shared else f'{kind}_{i}'
        for i in range(self._num_levels) for step, kind in kinds.items()
        if 0 <= i + step < self._num_levels}

  def run(self, weights: dict[str, Any], features: list[tf.Tensor]) -> list[tf.Tensor]:
    summands: list[list[tf.Tensor]] = [[] for _ in features]
    for (i, j), name in self._names().items():
      outputs = self._run_piece(weights, name, features[j])
      if j > i:
        outputs = sampling.resize_bilinear(outputs, features[i])
      summands[i].append(same_size(outputs, features[i]) if j < i else outputs)
    return [self._run_piece(weights, 'norm', tf.add_n(outputs)) for outputs in summands]

  def multiply_adds(self, sizes: list[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([self._cost([name], sizes[j]) for (_, j), name in self._names().items()])


class DenseConnection(Connection):
  """Connects every level with every other, as the last stage of HRNet does.

  Reference: Ke Sun et al., Deep High-Resolution Representation Learning for Human Pose
  Estimation, https://arxiv.org/abs/1902.09212.
  """

  def __init__(self, pieces: PieceFactory, num_levels: int, **kwargs):
    """Initializes the connection.

    Args:
      pieces: makes convolutions and norms.
      num_levels: number of levels.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(pieces, **kwargs)
    self._num_levels = num_levels
    for i, j in np.ndindex(num_levels, num_levels):
      for name in self._names(i, j):
        self._conv(name, 3 if i > j else 1, strides=2 if i > j else 1)
    self._norm('norm', is_output=True)

  @staticmethod
  def _names(i: int, j: int) -> list[str]:
    """Returns the convolutions from level j to level i: one for each halving, or one 1x1."""
    return [f'{j}_to_{i}_{step}' for step in range(max(i - j, 1))]

  def run(self, weights: dict[str, Any], features: list[tf.Tensor]) -> list[tf.Tensor]:
    results = []
    for i, target in enumerate(features):
      summands = []
      for j, level in enumerate(features):
        first, *rest = self._names(i, j)
        level = self._run_piece(weights, first, level)
        for name in rest:
          level = self._run_piece(weights, name, self._pieces.activation(level))
        if j > i:
          level = sampling.resize_nearest(level, target)
        summands.append(same_size(level, target) if j < i else level)
      results.append(self._run_piece(weights, 'norm', tf.add_n(summands)))
    return results

  def multiply_adds(self, sizes: list[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([
        self._cost(self._names(i, j), sizes[j])
        for i, j in np.ndindex(self._num_levels, self._num_levels)])
