"""Normalization that costs little and keeps images apart: group norm, frozen batch norm.

Both have `prepare` and `run`, see weight_norm.py.
"""
from typing import Any, Dict, List, NamedTuple, Optional

import tensorflow as tf, tf_keras


class NormWeights(NamedTuple):
  """What a norm needs during a solve.

  Attributes:
    scale: `[channels]`, applied after group norm, or all that frozen batch norm does.
    shift: `[channels]`.
    seen: what batch norm saw, one `[3, channels]` of sums per map, if it is to be watched.
  """
  scale: tf.Tensor
  shift: tf.Tensor
  seen: Optional[List[tf.Tensor]] = None


def _statistics_dtype(dtype: tf.DType) -> tf.DType:
  return tf.float64 if dtype == tf.float64 else tf.float32


def _sums(features: tf.Tensor) -> List[tf.Tensor]:
  """Returns the sums of values and of their squares over positions, `[batch, channels]`."""
  features = tf.cast(features, _statistics_dtype(features.dtype))
  return [tf.reduce_sum(values, [1, 2]) for values in (features, tf.square(features))]


def group_norm(features: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor, groups: int,
               epsilon: float) -> tf.Tensor:
  """Normalizes groups of channels of each image, as two sums and one scale and shift.

  Reference: Yuxin Wu, Kaiming He, Group Normalization, https://arxiv.org/abs/1803.08494.
  Statistics are float32, or float64 for float64 features.

  Args:
    features: `[batch, height, width, channels]`.
    scale: `[channels]`, of the statistics' dtype.
    shift: the same.
    groups: divides the number of channels.
    epsilon: added to the variance.

  Returns:
    The shape and dtype of `features`.
  """
  size, channels = tf.shape(features), features.shape[3]
  members = channels // groups

  def group_mean(sums):
    sums = tf.reduce_sum(tf.reshape(sums, [-1, groups, members]), -1, keepdims=True)
    sums /= tf.cast(size[1] * size[2] * members, sums.dtype)
    return tf.reshape(tf.tile(sums, [1, 1, members]), [-1, channels])

  mean, square = (group_mean(sums) for sums in _sums(features))
  # The difference of two nearly equal numbers may round to less than nothing.
  variance = tf.maximum(square - tf.square(mean), 0)
  scale *= tf.math.rsqrt(variance + epsilon)
  shift -= mean * scale
  scale, shift = (tf.cast(x, features.dtype)[:, None, None] for x in (scale, shift))
  return features * scale + shift


@tf_keras.utils.register_keras_serializable(package='official_ext')
class GroupNorm(tf_keras.layers.Layer):
  """Group norm with learned scale and shift."""

  MEMBERS = 8

  def __init__(self, epsilon: float = 1e-5, initial_scale: float = 1.0, **kwargs):
    """Initializes the layer: 8 channels in a group.

    With two channels in a group a map of one pixel normalizes to +-1 and has no gradient.

    Args:
      epsilon: added to the variance.
      initial_scale: start of the scale.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(**kwargs)
    self._epsilon, self._initial_scale = epsilon, initial_scale

  def build(self, input_shape: tf.TensorShape) -> None:
    channels = tf.TensorShape(input_shape)[-1]
    if channels % self.MEMBERS:
      raise ValueError(f'{self.name} normalizes groups of {self.MEMBERS} channels and got '
                       f'{channels}: change decoder.<type>.num_filters.')
    self.gamma = self.add_weight(
        'gamma', [channels], initializer=tf_keras.initializers.Constant(self._initial_scale))
    self.beta = self.add_weight('beta', [channels], initializer='zeros')
    super().build(input_shape)

  def prepare(self, dtype: tf.DType, watch: bool = False) -> NormWeights:
    """Returns scale and shift, not of low precision; there is nothing to watch."""
    del dtype, watch
    return NormWeights(tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta))

  def run(self, weights: NormWeights, features: tf.Tensor) -> tf.Tensor:
    """Normalizes `[batch, height, width, channels]`."""
    groups = features.shape[3] // self.MEMBERS
    return group_norm(features, weights.scale, weights.shift, groups, self._epsilon)

  def update(self, weights: NormWeights) -> None:
    """Does nothing: there are no moving averages."""

  def call(self, features: tf.Tensor) -> tf.Tensor:
    return self.run(self.prepare(features.dtype), features)

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(), 'epsilon': self._epsilon, 'initial_scale': self._initial_scale}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class FrozenBatchNorm(tf_keras.layers.Layer):
  """Batch norm that always normalizes with its moving averages, in training too.

  Inside a solve statistics of the batch would make each image depend on the others, and
  the map differ from one evaluation to the next.  `update` moves the averages by what
  one evaluation, outside the solve, saw.  Applied to several maps it has one mean and
  variance over all of them ("integrated" batch norm).
  """

  def __init__(self, epsilon: float = 1e-3, momentum: float = 0.99, initial_scale: float = 1.0,
               **kwargs):
    """Initializes the layer.

    Args:
      epsilon: added to the variance.
      momentum: of the moving averages.
      initial_scale: start of the scale.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(**kwargs)
    self._epsilon, self._momentum, self._initial_scale = epsilon, momentum, initial_scale

  def build(self, input_shape: tf.TensorShape) -> None:
    channels = tf.TensorShape(input_shape)[-1]
    self.gamma = self.add_weight(
        'gamma', [channels], initializer=tf_keras.initializers.Constant(self._initial_scale))
    self.beta = self.add_weight('beta', [channels], initializer='zeros')
    moving = {'trainable': False, 'synchronization': tf.VariableSynchronization.ON_READ,
              'aggregation': tf.VariableAggregation.MEAN}
    self.moving_mean = self.add_weight('moving_mean', [channels], initializer='zeros', **moving)
    self.moving_variance = self.add_weight(
        'moving_variance', [channels], initializer='ones', **moving)
    super().build(input_shape)

  def prepare(self, dtype: tf.DType, watch: bool = False) -> NormWeights:
    """Returns the scale and shift that the moving averages make.

    Args:
      dtype: of the features; not needed.
      watch: keep what `run` sees, for `update`.
    """
    del dtype
    scale = self.gamma * tf.math.rsqrt(self.moving_variance + self._epsilon)
    return NormWeights(scale, self.beta - self.moving_mean * scale, [] if watch else None)

  def run(self, weights: NormWeights, features: tf.Tensor) -> tf.Tensor:
    """Normalizes `[batch, height, width, channels]`."""
    if weights.seen is not None:
      sums = [tf.reduce_sum(value, 0) for value in _sums(features)]
      count = tf.cast(tf.reduce_prod(tf.shape(features)[:3]), sums[0].dtype)
      weights.seen.append(tf.stack([*sums, count * tf.ones_like(sums[0])]))
    return (features * tf.cast(weights.scale, features.dtype)
            + tf.cast(weights.shift, features.dtype))

  def update(self, weights: NormWeights) -> None:
    """Moves the averages by what `run` saw with weights that watched."""
    value, square, count = tf.unstack(tf.stop_gradient(tf.add_n(weights.seen)))
    mean = value / count
    variance = tf.maximum(square / count - tf.square(mean), 0)
    for variable, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
      variable.assign_sub((variable - now) * (1 - self._momentum))

  def call(self, features: tf.Tensor) -> tf.Tensor:
    return self.run(self.prepare(features.dtype), features)

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(), 'epsilon': self._epsilon, 'momentum': self._momentum,
        'initial_scale': self._initial_scale}
