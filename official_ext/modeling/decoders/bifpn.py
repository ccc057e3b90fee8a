"""BiFPN: cells that fuse neighboring levels by learned weights, top-down and bottom-up."""
from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.decoders import pyramid
from official_ext.modeling.layers import convolutions
from official_ext.ops import checks
from official_ext.ops import sampling

FUSIONS = ('fast_normalized', 'softmax', 'sum')
EPSILON = 1e-4


@dataclasses.dataclass
class BiFPNConfig(pyramid.LevelsConfig):
  """Options of `BiFPN`; see its arguments."""
  num_filters: int = 64
  num_repeats: int = 3
  fusion: str = 'fast_normalized'


class Node(NamedTuple):
  """A node of a cell.

  Attributes:
    name: `down_<level>` or `out_<level>`.
    level: its level.
    inputs: names of the maps that it fuses, `in_<level>` or those of nodes.
  """
  name: str
  level: int
  inputs: list[str]


def cell_nodes(levels: Sequence[int]) -> list[Node]:
  """Returns the nodes of a cell in the order of computation.

  Args:
    levels: at least two levels, finest first.
  """
  first, last = levels[0], levels[-1]
  nodes, above = [], f'in_{last}'
  for level in range(last - 1, first, -1):
    nodes.append(Node(f'down_{level}', level, [f'in_{level}', above]))
    above = f'down_{level}'
  nodes.append(Node(f'out_{first}', first, [f'in_{first}', above]))
  for level in range(first + 1, last + 1):
    down = [f'down_{level}'] if level < last else []
    nodes.append(Node(f'out_{level}', level, [f'in_{level}', *down, f'out_{level - 1}']))
  return nodes


def resample(features: tf.Tensor, source: int, level: int, target: tf.Tensor) -> tf.Tensor:
  """Resizes a map to the next level: nearest neighbor to the finer, 3x3 max-pooling to the coarser.

  Args:
    features: `[batch, height, width, channels]`.
    source: level of `features`.
    level: level of the result.
    target: a map in the size of the result.

  Returns:
    `[batch, target_height, target_width, channels]`.
  """
  if source > level:
    return sampling.resize_nearest(features, target)
  if source < level:
    features = halve(features)
    if not _same_size(features, target):
      features = sampling.resize_nearest(features, target)
  return features


def halve(features: tf.Tensor) -> tf.Tensor:
  """Returns 3x3 maxima at every second pixel, in half of the size, rounded up."""
  return tf.nn.max_pool2d(features, 3, 2, 'SAME')


def _same_size(first: tf.Tensor, second: tf.Tensor) -> bool:
  """Returns whether heights and widths are known to be equal."""
  sizes = first.shape[1:3], second.shape[1:3]
  return sizes[0].is_fully_defined() and sizes[0] == sizes[1]


class FusionNode(convolutions.ConvBlock):
  """Fuses maps of one size by weights, then activates, convolves and normalizes.

      fast_normalized: sum of max(w_i, 0) x_i / (sum of max(w_i, 0) + 0.0001)
      softmax: sum of softmax(w)_i x_i;  sum: sum of x_i
      result = norm(separable conv3x3(activation(fused)))

  Reference: Mingxing Tan, Ruoming Pang, Quoc V. Le, EfficientDet: Scalable and Efficient Object
  Detection, https://arxiv.org/abs/1911.09070, section 3.3.
  """

  def __init__(self, filters: int, fusion: str, activation: str,
               norm: tf_keras.layers.Layer | None, **kwargs):
    """Initializes the node.

    Args:
      filters: channels of the maps and of the result.
      fusion: `fast_normalized`, `softmax` or `sum`.
      activation: name of the activation before the convolution.
      norm: batch norm that follows the convolution, or None.
      **kwargs: arguments of `ConvBlock`.
    """
    super().__init__(**kwargs)
    self._fusion, self._activation, self._norm = fusion, activation, norm
    self._conv = self.conv(3, 'conv', filters, cls=convolutions.SeparableConv2D)

  def build(self, input_shape: Sequence[tf.TensorShape]) -> None:
    if self._fusion != 'sum':
      # Shares are computed in float32 under mixed precision, so autocast must not round weights.
      self.fusion_weights = self.add_weight(
          'fusion_weights', [len(input_shape)], initializer='ones', experimental_autocast=False)
    super().build(input_shape)

  def shares(self) -> tf.Tensor:
    """Returns the factor of each map, `[maps]`, in the dtype of the variables."""
    if self._fusion == 'softmax':
      return tf.nn.softmax(self.fusion_weights)
    positive = tf.nn.relu(self.fusion_weights)
    return positive / (tf.reduce_sum(positive) + EPSILON)

  def call(self, inputs: Sequence[tf.Tensor], training: bool | None = None) -> tf.Tensor:
    """Fuses.

    Args:
      inputs: maps `[batch, height, width, filters]` of one size.
      training: None counts as False.

    Returns:
      `[batch, height, width, filters]`.
    """
    if self._fusion == 'sum':
      fused = tf.add_n(list(inputs))
    else:
      shares = tf.unstack(tf.cast(self.shares(), self.compute_dtype), len(inputs))
      fused = tf.add_n([share * features for share, features in zip(shares, inputs)])
    outputs = self._conv(tf_keras.activations.get(self._activation)(fused))
    return self._norm(outputs, training=training) if self._norm else outputs


@components.register_decoder('bifpn', BiFPNConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class BiFPN(pyramid.LevelsDecoder):
  """Repeated cells, each a top-down and a bottom-up path of `FusionNode`s.

  A level of the backbone whose channels differ from `num_filters` gets a 1x1 convolution and a
  norm, in the first cell one for each node that takes it.  Levels coarser than the backbone's are
  3x3 maxima of the finer level at every second pixel; the first is made from the backbone's
  coarsest after a 1x1 convolution and a norm of its own.

  Reference: Mingxing Tan, Ruoming Pang, Quoc V. Le, EfficientDet: Scalable and Efficient Object
  Detection, https://arxiv.org/abs/1911.09070.

  Differs: the activation is that of the network (`model.norm_activation`), where EfficientDet has
  swish in every part.
  """

  def __init__(self, num_filters: int = 64, num_repeats: int = 3,
               fusion: str = 'fast_normalized', activation: str = 'swish', **kwargs):
    """Initializes the decoder.

    Args:
      num_filters: channels of every level of the result; EfficientDet-D0 to D2 have 64, 88, 112.
      num_repeats: number of cells, at least 1; EfficientDet-D0 to D2 have 3, 4, 5.
      fusion: weights of the maps that a node fuses: `fast_normalized`, `softmax`, or `sum`, no
        weights.
      activation: name of the activation after each fusion.
      **kwargs: arguments of `LevelsDecoder`; `norm` follows every convolution.

    Raises:
      ArgumentError: an unknown fusion, no cell, or a single level.
    """
    super().__init__(num_filters=num_filters, activation=activation, **kwargs)
    checks.check_one_of('fusion', fusion, FUSIONS)
    if num_repeats < 1:
      raise checks.ArgumentError(
          'num_repeats', f'num_repeats is {num_repeats}; it must be at least 1.')
    if self._min_level == self._max_level:
      raise checks.ArgumentError(
          'max_level', f'min_level and max_level are both {self._max_level}: BiFPN fuses at least '
          'two levels.')
    self._num_repeats, self._fusion = num_repeats, fusion
    self._nodes = cell_nodes(range(self._min_level, self._max_level + 1))
    # Name of the place where a map of the backbone enters -> its 1x1 convolution, its norm.
    self._projections: dict[str, tf_keras.layers.Layer] = {}
    self._projection_norms: dict[str, tf_keras.layers.Layer] = {}
    if self._coarser_levels:
      self._add_projection(f'coarser_{self._coarser_levels[0]}', self._backbone_levels[-1])
    for node in self._nodes:
      for name in node.inputs:
        self._add_projection(f'{node.name}_{name}', name.removeprefix('in_'))
    self._fusion_nodes = {
        name: self._fusion_node(name) for name in (
            f'cell_{index}_{node.name}' for index in range(num_repeats) for node in self._nodes)}

  def _add_projection(self, name: str, level: str) -> None:
    """Adds a 1x1 convolution if the level is one of the backbone with other channels."""
    if self.input_channels.get(level, self._num_filters) != self._num_filters:
      self._projections[name] = self.conv(1, name)
      if self._norm == 'batch_norm':
        self._projection_norms[name] = self.batch_norm(f'{name}_norm')

  def _fusion_node(self, name: str) -> FusionNode:
    return FusionNode(
        self._num_filters, self._fusion, self._activation,
        self.batch_norm('norm') if self._norm == 'batch_norm' else None, name=name,
        dtype=self.dtype_policy, kernel_regularizer=self._kernel_regularizer,
        kernel_initializer=convolutions.copy_initializer(self._kernel_initializer),
        bias_regularizer=self._bias_regularizer)

  def _projected(self, features: tf.Tensor, name: str, training: bool | None) -> tf.Tensor:
    if name in self._projections:
      features = self._projections[name](features)
    if name in self._projection_norms:
      features = self._projection_norms[name](features, training=training)
    return features

  def build_levels(self, inputs: pyramid.Features, training: bool | None) -> pyramid.Features:
    features = dict(inputs)
    coarsest = features[self._backbone_levels[-1]]
    for level in self._coarser_levels:
      coarsest = features[level] = halve(self._projected(coarsest, f'coarser_{level}', training))
    for index in range(self._num_repeats):
      features = self._run_cell(index, features, training)
    return features

  def _run_cell(self, index: int, features: pyramid.Features,
                training: bool | None) -> pyramid.Features:
    """Computes the result of a cell, level -> map, from that of the cell before it."""
    maps = {f'in_{level}': each for level, each in features.items()}
    for node in self._nodes:
      fused = []
      for name in node.inputs:
        source = maps[name]
        if index == 0:
          source = self._projected(source, f'{node.name}_{name}', training)
        level = int(name.rpartition('_')[2])
        fused.append(resample(source, level, node.level, features[str(node.level)]))
      fusion_node = self._fusion_nodes[f'cell_{index}_{node.name}']
      maps[node.name] = fusion_node(fused, training=training)
    return {level: maps[f'out_{level}'] for level in features}

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'num_repeats': self._num_repeats, 'fusion': self._fusion}
