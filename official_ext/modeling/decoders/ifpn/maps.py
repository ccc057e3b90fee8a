"""The map G of the implicit pyramid, whose fixed point is the pyramid: residual blocks, injection.

Reference: Tiancai Wang, Xiangyu Zhang, Jian Sun, Implicit Feature Pyramid Network for
Object Detection, https://arxiv.org/abs/2012.13563, section 3.3 and Figure 4.

A map is a function of the state P and the basis B, lists of levels `[batch, height,
width, num_filters]`, finest first.  Both have the methods of `connections.Connection`,
but `run` takes the basis, and channel masks, too.
"""
import functools
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders.ifpn import connections
from official_ext.modeling.decoders.ifpn import fusion_connections
from official_ext.ops import noise
from official_ext.ops import sampling

CONNECTIONS = {
    'none': connections.NoConnection,
    'pyramid': connections.PyramidConnection,
    'dense': connections.DenseConnection,
    'bifpn': fusion_connections.BiFPNConnection,
    'nasfpn': fusion_connections.NASFPNConnection,
}

Masks = Optional[Sequence[tf.Tensor]]


class ResidualBlock(connections.Connection):
  """conv - norm - ReLU - conv - dropout - norm, plus the input, ReLU (section 3.3)."""

  def __init__(self, parts: connections.Parts, **kwargs):
    """Initializes the block; see `connections.Connection`."""
    super().__init__(parts, **kwargs)
    for number in (1, 2):
      self._conv(f'conv_{number}', use_bias=False)
      self._norm(f'norm_{number}')

  def run(self, weights: Dict[str, Any], features: tf.Tensor,
          mask: Optional[tf.Tensor] = None) -> tf.Tensor:
    """Maps `[batch, height, width, num_filters]` to the same shape.

    Args:
      weights: what `prepare` returned.
      features: one level.
      mask: `[batch, 1, 1, num_filters]`, multiplied with the second convolution's result.
    """
    hidden = self._parts.activation(self._chain(weights, ['conv_1', 'norm_1'], features))
    hidden = self._do(weights, 'conv_2', hidden)
    if mask is not None:
      hidden *= mask
    return self._parts.activation(self._do(weights, 'norm_2', hidden) + features)

  def multiply_adds(self, size: tf.Tensor) -> tf.Tensor:
    return self._cost(['conv_1', 'conv_2'], size)

  def call(self, features: tf.Tensor) -> tf.Tensor:
    return self.run(self.prepare(features.dtype), features)


class ResidualMap(connections.Connection):
  """G(P + B): a residual block for each level, then connections between levels (Figure 4)."""

  def __init__(self, parts: connections.Parts, num_levels: int, is_residual: bool = True,
               cross_scale_type: str = 'pyramid', is_shared: bool = True,
               output_activation: str = 'linear', **kwargs):
    """Initializes the map.

    Args:
      parts: what it is built of.
      num_levels: of the pyramid.
      is_residual: has residual blocks (Figure 4, b and c), or connections only (a).
      cross_scale_type: a key of `CONNECTIONS`.
      is_shared: for `pyramid`, the same kernels for all levels.
      output_activation: of the result.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(parts, **kwargs)
    connection = CONNECTIONS[cross_scale_type]
    if cross_scale_type == 'pyramid':
      connection = functools.partial(connection, is_shared=is_shared)
    self._blocks = []
    if is_residual:
      self._blocks = [
          self._add(ResidualBlock(parts, name=f'residual_{level}', dtype=self.dtype))
          for level in range(num_levels)]
    self._connection = self._add(
        connection(parts, num_levels, name='cross_scale', dtype=self.dtype))
    self._output_activation = tf_keras.activations.get(output_activation)

  def run(self, weights: Dict[str, Any], state: List[tf.Tensor], basis: List[tf.Tensor],
          masks: Masks = None) -> List[tf.Tensor]:
    """Returns G(P + B).

    Args:
      weights: what `prepare` returned.
      state: P.
      basis: B, of the dtype that `prepare` was given.
      masks: `[batch, 1, 1, num_filters]` for each level, or None.
    """
    levels = [p + b for p, b in zip(state, basis)]
    masks = masks or [None] * len(levels)
    if self._blocks:
      levels = [block.run(weights[block.name], features, mask)
                for block, features, mask in zip(self._blocks, levels, masks)]
    levels = self._connection.run(weights[self._connection.name], levels)
    return [self._output_activation(features) for features in levels]

  def multiply_adds(self, sizes: List[tf.Tensor]) -> tf.Tensor:
    blocks = [block.multiply_adds(size) for block, size in zip(self._blocks, sizes)]
    return tf.add_n([*blocks, self._connection.multiply_adds(sizes)])

  def call(self, state: List[tf.Tensor], basis: List[tf.Tensor]) -> List[tf.Tensor]:
    return self.run(self.prepare(basis[0].dtype), state, basis)


class InjectedMap(connections.Connection):
  """G(P; B) in the way of multiscale deep equilibrium models, to compare with (Table 5).

  Reference: Shaojie Bai, Vladlen Koltun, J. Zico Kolter, Multiscale Deep Equilibrium Models,
  https://arxiv.org/abs/2006.08656.

  Differs: blocks are as wide as the pyramid, not 4 to 6 times wider.
  """

  def __init__(self, parts: connections.Parts, num_levels: int, output_activation: str = 'linear',
               **kwargs):
    """Initializes the map.

    Args:
      parts: what it is built of.
      num_levels: of the pyramid.
      output_activation: of the result.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(parts, **kwargs)
    conv = functools.partial(self._conv, use_bias=False)
    self._num_levels = num_levels
    for i in range(num_levels):
      conv(f'block_{i}_conv_1')
      conv(f'block_{i}_conv_2')
      for number in (1, 2, 3):
        self._norm(f'block_{i}_norm_{number}')
      for j in range(num_levels):
        for name, norm in self._names(i, j):
          conv(name, 3 if i > j else 1, strides=2 if i > j else 1)
          self._norm(norm)
      conv(f'output_{i}', 1)
      self._norm(f'output_norm_{i}', is_output=True)
    self._output_activation = tf_keras.activations.get(output_activation)

  @staticmethod
  def _names(i: int, j: int) -> List[Tuple[str, str]]:
    """Returns convolutions and norms from level j to level i: one halving each, or a 1x1."""
    steps = range(max(i - j, 1) if i != j else 0)
    return [(f'fuse_{j}_to_{i}_{step}', f'fuse_{j}_to_{i}_norm_{step}') for step in steps]

  def _block(self, weights, index, state, basis, mask):
    activation, name = self._parts.activation, f'block_{index}'
    hidden = self._chain(weights, [f'{name}_conv_1', f'{name}_norm_1'], state)
    hidden = self._do(weights, f'{name}_conv_2', activation(hidden))
    if mask is not None:
      hidden *= mask
    hidden = self._do(weights, f'{name}_norm_2', hidden + basis)
    return self._do(weights, f'{name}_norm_3', activation(hidden + state))

  def run(self, weights: Dict[str, Any], state: List[tf.Tensor], basis: List[tf.Tensor],
          masks: Masks = None) -> List[tf.Tensor]:
    """Returns G(P; B); arguments as in `ResidualMap.run`."""
    masks = masks or [None] * len(state)
    levels = [self._block(weights, *each) for each in zip(range(len(state)), state, basis, masks)]
    results = []
    for i, target in enumerate(levels):
      parts = []
      for j, features in enumerate(levels):
        for step, names in enumerate(self._names(i, j)):
          features = self._parts.activation(features) if step else features
          features = self._chain(weights, names, features)
        if j > i:
          features = sampling.resize_nearest(features, target)
        parts.append(connections.same_size(features, target) if j < i else features)
      fused = self._parts.activation(tf.add_n(parts))
      results.append(self._output_activation(
          self._chain(weights, [f'output_{i}', f'output_norm_{i}'], fused)))
    return results

  def multiply_adds(self, sizes: List[tf.Tensor]) -> tf.Tensor:
    costs = [self._cost([name for name, _ in self._names(i, j)], sizes[j])
             for i, j in np.ndindex(self._num_levels, self._num_levels)]
    for i, size in enumerate(sizes):
      costs.append(self._cost([f'block_{i}_conv_1', f'block_{i}_conv_2', f'output_{i}'], size))
    return tf.add_n(costs)

  def call(self, state: List[tf.Tensor], basis: List[tf.Tensor]) -> List[tf.Tensor]:
    return self.run(self.prepare(basis[0].dtype), state, basis)


@tf_keras.utils.register_keras_serializable(package='official_ext')
class ChannelDropout(tf_keras.layers.Layer):
  """Draws the channel masks of one training step, and counts the steps.

  Reference: Yarin Gal, Zoubin Ghahramani, A Theoretically Grounded Application of Dropout in
  Recurrent Neural Networks, https://arxiv.org/abs/1512.05287 ("variational" dropout: one
  mask for all applications of the same weights).

  The masks are a function of the layer's name, a counter that checkpoints keep, and the
  replica: replicas draw different ones, and a resumed run draws what the unbroken run would
  have drawn.
  """

  def __init__(self, rate: float, num_levels: int, num_filters: int, seed: int = 0, **kwargs):
    """Initializes the layer.

    Args:
      rate: share of channels that are dropped, in [0, 1).
      num_levels: number of masks.
      num_filters: channels of each.
      seed: changes the masks.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ValueError: a rate outside [0, 1).
    """
    kwargs['dtype'] = 'float32'
    super().__init__(autocast=False, **kwargs)
    if not 0 <= rate < 1:
      raise ValueError(f'dropout is {rate}; it must lie in [0, 1): change decoder.<type>.dropout.')
    self._rate, self._num_levels, self._num_filters = rate, num_levels, num_filters
    self._seed = seed

  def build(self, input_shape: Any) -> None:
    # Replicas read their own copy: the default would merge in the middle of a step.
    self._counter = self.add_weight(
        'step_counter', shape=(), dtype=tf.int64, initializer='zeros', trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
    super().build(input_shape)

  def steps(self) -> tf.Tensor:
    """Returns the number of training steps so far, int64."""
    return self._counter.read_value()

  def draw(self, batch: tf.Tensor) -> List[tf.Tensor]:
    """Draws the masks of a training step and moves the counter on.

    Args:
      batch: number of images, int32 scalar.

    Returns:
      For each level float32 `[batch, 1, 1, num_filters]`: 0, or 1 / (1 - rate).
    """
    shape = [self._num_levels, batch, 1, 1, self._num_filters]
    uniform = noise.uniform_steps(self.name, self._seed, self.steps(), shape) * 2.0**-23
    self._counter.assign_add(1)
    kept = tf.cast(uniform >= self._rate, tf.float32) / (1 - self._rate)
    return tf.unstack(kept, num=self._num_levels)

  def call(self, inputs: tf.Tensor) -> List[tf.Tensor]:
    """Returns `draw` for the batch size of the input."""
    return self.draw(tf.shape(inputs)[0])

  def get_config(self) -> Dict[str, Any]:
    return {**super().get_config(), 'rate': self._rate, 'num_levels': self._num_levels,
            'num_filters': self._num_filters, 'seed': self._seed}
