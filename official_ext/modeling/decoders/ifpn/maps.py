"""The map G whose fixed point is the implicit pyramid: residual blocks, injection of the basis.

Reference: Tiancai Wang, Xiangyu Zhang, Jian Sun, Implicit Feature Pyramid Network for
Object Detection, https://arxiv.org/abs/2012.13563, section 3.2.2 and Figure 4.
"""
from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders.ifpn import connections
from official_ext.modeling.decoders.ifpn import fusion_connections
from official_ext.modeling.layers import noise_counter
from official_ext.ops import checks
from official_ext.ops import noise
from official_ext.ops import sampling

CONNECTIONS = {
    'none': connections.NoConnection,
    'pyramid': connections.PyramidConnection,
    'dense': connections.DenseConnection,
    'bifpn': fusion_connections.BiFPNConnection,
    'nasfpn': fusion_connections.NASFPNConnection,
}

Masks = Sequence[tf.Tensor] | None


class MapInputs(NamedTuple):
  """The features that a map is a function of.

  Attributes:
    state: P, levels `[batch, height, width, num_filters]`, finest first.
    basis: B, levels of the same shapes, in the dtype of the weights.
    masks: `[batch, 1, 1, num_filters]` for each level, by which channel dropout multiplies, or
      None.
  """
  state: list[tf.Tensor]
  basis: list[tf.Tensor]
  masks: Masks = None


class ResidualBlock(connections.Connection):
  """conv - norm - ReLU - conv - dropout - norm, plus the input, then ReLU (section 3.2.2)."""

  def __init__(self, pieces: connections.PieceFactory, **kwargs):
    """Initializes the block.

    Args:
      pieces: makes convolutions and norms.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(pieces, **kwargs)
    for number in (1, 2):
      self._conv(f'conv_{number}', use_bias=False)
      self._norm(f'norm_{number}')

  def run(self, weights: dict[str, Any], features: tf.Tensor,
          mask: tf.Tensor | None = None) -> tf.Tensor:
    """Maps `[batch, height, width, num_filters]` to the same shape.

    Args:
      weights: what `prepare` returned.
      features: one level.
      mask: `[batch, 1, 1, num_filters]`, by which the result of the second convolution is
        multiplied, or None.
    """
    hidden = self._pieces.activation(self._chain(weights, ['conv_1', 'norm_1'], features))
    hidden = self._run_piece(weights, 'conv_2', hidden)
    if mask is not None:
      hidden *= mask
    return self._pieces.activation(self._run_piece(weights, 'norm_2', hidden) + features)

  def multiply_adds(self, size: tf.Tensor) -> tf.Tensor:
    return self._cost(['conv_1', 'conv_2'], size)


class ResidualMap(connections.Connection):
  """G(P + B): a residual block for each level, then connections between levels (Figure 4)."""

  def __init__(self, pieces: connections.PieceFactory, num_levels: int, is_residual: bool = True,
               cross_scale_type: str = 'pyramid', is_shared: bool = True,
               is_deformable: bool = False, **kwargs):
    """Initializes the map.

    Args:
      pieces: makes convolutions and norms.
      num_levels: number of levels.
      is_residual: whether there are residual blocks (Figure 4, b and c), or connections only (a).
      cross_scale_type: a key of `CONNECTIONS`.
      is_shared: see `PyramidConnection`; only for `pyramid`.
      is_deformable: see `PyramidConnection`; only for `pyramid`.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(pieces, **kwargs)
    connection: Callable[..., connections.Connection] = CONNECTIONS[cross_scale_type]
    if cross_scale_type == 'pyramid':
      connection = functools.partial(
          connection, is_shared=is_shared, is_deformable=is_deformable)
    self._blocks = []
    if is_residual:
      self._blocks = [
          self._add(ResidualBlock(pieces, name=f'residual_{level}', dtype=self.dtype))
          for level in range(num_levels)]
    self._connection = self._add(
        connection(pieces, num_levels, name='cross_scale', dtype=self.dtype))

  def run(self, weights: dict[str, Any], features: MapInputs) -> list[tf.Tensor]:
    """Returns G(P + B), levels in the shapes of the state."""
    levels = [p + b for p, b in zip(features.state, features.basis)]
    if self._blocks:
      masks = features.masks or [None] * len(levels)
      levels = [block.run(weights[block.name], level, mask)
                for block, level, mask in zip(self._blocks, levels, masks)]
    return self._connection.run(weights[self._connection.name], levels)

  def multiply_adds(self, sizes: list[tf.Tensor]) -> tf.Tensor:
    blocks = [block.multiply_adds(size) for block, size in zip(self._blocks, sizes)]
    return tf.add_n([*blocks, self._connection.multiply_adds(sizes)])


class InjectedMap(connections.Connection):
  """G(P; B) as multiscale deep equilibrium models inject B, for comparison (Table 5, MDEQ).

  Reference: Shaojie Bai, Vladlen Koltun, J. Zico Kolter, Multiscale Deep Equilibrium Models,
  https://arxiv.org/abs/2006.08656.

  Differs: blocks are as wide as the pyramid, not 4 to 6 times wider.
  """

  def __init__(self, pieces: connections.PieceFactory, num_levels: int, **kwargs):
    """Initializes the map.

    Args:
      pieces: makes convolutions and norms.
      num_levels: number of levels.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(pieces, **kwargs)
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

  @staticmethod
  def _names(i: int, j: int) -> list[tuple[str, str]]:
    """Returns convolutions and norms from level j to i: a pair per halving, or one with a 1x1."""
    steps = range(max(i - j, 1) if i != j else 0)
    return [(f'fuse_{j}_to_{i}_{step}', f'fuse_{j}_to_{i}_norm_{step}') for step in steps]

  def _block(self, weights, index, state, basis, mask):
    activation, name = self._pieces.activation, f'block_{index}'
    hidden = self._chain(weights, [f'{name}_conv_1', f'{name}_norm_1'], state)
    hidden = self._run_piece(weights, f'{name}_conv_2', activation(hidden))
    if mask is not None:
      hidden *= mask
    hidden = self._run_piece(weights, f'{name}_norm_2', hidden + basis)
    return self._run_piece(weights, f'{name}_norm_3', activation(hidden + state))

  def run(self, weights: dict[str, Any], features: MapInputs) -> list[tf.Tensor]:
    """Returns G(P; B), levels in the shapes of the state."""
    state, basis, masks = features
    masks = masks or [None] * len(state)
    levels = [self._block(weights, *each) for each in zip(range(len(state)), state, basis, masks)]
    results = []
    for i, target in enumerate(levels):
      summands = [self._to_level(weights, i, j, level, target) for j, level in enumerate(levels)]
      fused = self._pieces.activation(tf.add_n(summands))
      results.append(self._chain(weights, [f'output_{i}', f'output_norm_{i}'], fused))
    return results

  def _to_level(self, weights, i, j, features, target):
    """Returns what level j adds to level i, in the size of `target`."""
    for step, names in enumerate(self._names(i, j)):
      features = self._pieces.activation(features) if step else features
      features = self._chain(weights, names, features)
    if j > i:
      return sampling.resize_nearest(features, target)
    return connections.same_size(features, target) if j < i else features

  def multiply_adds(self, sizes: list[tf.Tensor]) -> tf.Tensor:
    costs = [self._cost([name for name, _ in self._names(i, j)], sizes[j])
             for i, j in np.ndindex(self._num_levels, self._num_levels)]
    for i, size in enumerate(sizes):
      costs.append(self._cost([f'block_{i}_conv_1', f'block_{i}_conv_2', f'output_{i}'], size))
    return tf.add_n(costs)


def check_dropout_rate(argument: str, rate: float) -> None:
  """Checks a share of channels that are dropped.

  Args:
    argument: name of the argument that gave it.
    rate: the share.

  Raises:
    ArgumentError: it is not in [0, 1).
  """
  if not 0 <= rate < 1:
    raise checks.ArgumentError(argument, f'{argument} is {rate}; it must lie in [0, 1).')


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
      num_filters: channels of each mask.
      seed: integer that changes the masks.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: a rate outside [0, 1).
    """
    kwargs['dtype'] = 'float32'
    super().__init__(autocast=False, **kwargs)
    check_dropout_rate('rate', rate)
    self._rate, self._num_levels, self._num_filters = rate, num_levels, num_filters
    self._seed = seed

  def build(self, input_shape: Any) -> None:
    self._counter = noise_counter.add_noise_counter(self, 'step_counter')
    super().build(input_shape)

  def steps(self) -> tf.Tensor:
    """Returns the number of training steps so far, int64."""
    return self._counter.read_value()

  def draw(self, batch: tf.Tensor) -> list[tf.Tensor]:
    """Draws the masks of a training step and increments the counter.

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

  def call(self, inputs: tf.Tensor) -> list[tf.Tensor]:
    """Returns `draw` for the batch size of the input."""
    return self.draw(tf.shape(inputs)[0])

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'rate': self._rate, 'num_levels': self._num_levels,
            'num_filters': self._num_filters, 'seed': self._seed}
