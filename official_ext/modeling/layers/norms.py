"""Normalization that several networks share: group norm, and batch norms with own statistics."""
from typing import Any, NamedTuple

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import prepared
from official_ext.ops import checks
from official_ext.ops import group_norm


class NormWeights(NamedTuple):
  """Tensors that a prepared norm runs with.

  Attributes:
    scale: `[channels]`, of group norm its gamma, of batch norm gamma over the deviation.
    shift: `[channels]`, added last.
    seen: None, or the list to which `FrozenBatchNorm.run` appends, for every map, the statistics
      that `FrozenBatchNorm.update` needs.
  """
  scale: tf.Tensor
  shift: tf.Tensor
  seen: list[tf.Tensor] | None = None


@tf_keras.utils.register_keras_serializable(package='official_ext')
class GroupNorm(prepared.PreparedLayer):
  """Group norm with learned scale and shift.

  Reference: Yuxin Wu, Kaiming He, Group Normalization, https://arxiv.org/abs/1803.08494.

  Statistics are float32, or float64 for float64 features; scale and shift keep the dtype of the
  variables under mixed precision.
  """

  def __init__(self, epsilon: float = 1e-5, initial_scale: float = 1.0,
               group_size: int | None = 8, **kwargs):
    """Initializes the layer.

    Args:
      epsilon: small positive number that is added to the variance.
      initial_scale: initial value of gamma.
      group_size: channels in a group, which must divide the channels of the features.  With two
        channels in a group a map of one pixel normalizes to +-1 and has no gradient.  None: as
        many groups, up to 32, as divide the channels.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(**kwargs)
    self._epsilon, self._initial_scale, self._group_size = epsilon, initial_scale, group_size

  def build(self, input_shape: tf.TensorShape) -> None:
    checks.check_maps('features', tf.TensorShape(input_shape))
    channels = tf.TensorShape(input_shape)[-1]
    check_group_size('group_size', channels, self._group_size)
    # The statistics that they scale are float32, so autocast must not round them.
    options = {'shape': [channels], 'experimental_autocast': False}
    self.gamma = self.add_weight(
        'gamma', initializer=tf_keras.initializers.Constant(self._initial_scale), **options)
    self.beta = self.add_weight('beta', initializer='zeros', **options)
    super().build(input_shape)

  def prepare(self, dtype: tf.DType) -> NormWeights:
    """Returns gamma and beta in the dtype of the variables, whatever `dtype` is."""
    del dtype
    return NormWeights(tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta))

  def run(self, weights: NormWeights, features: tf.Tensor) -> tf.Tensor:
    """Normalizes `[batch, height, width, channels]`."""
    channels = features.shape[-1]
    num_groups = (channels // self._group_size if self._group_size
                  else group_norm.num_groups_of(channels))
    return group_norm.group_norm(
        features, weights.scale, weights.shift, num_groups, self._epsilon)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'epsilon': self._epsilon,
            'initial_scale': self._initial_scale, 'group_size': self._group_size}


def check_group_size(argument: str, channels: int, group_size: int | None = 8) -> None:
  """Checks that groups divide the channels that a `GroupNorm` gets.

  Args:
    argument: name of the argument that has to change.
    channels: number of channels.
    group_size: as in `GroupNorm`, with the same default.

  Raises:
    ArgumentError: `group_size` does not divide `channels`.
  """
  if group_size is not None and (group_size < 1 or channels % group_size):
    raise checks.ArgumentError(
        argument, f'group norm has groups of {group_size} channels and got {channels} channels, '
        f'not a multiple: {argument} has to change.')


class _AveragingNorm(tf_keras.layers.Layer):
  """Base of batch norms that choose by themselves which features move their averages.

  Variables are float32, or float64 if the layer is, and no precision policy casts them: in half
  precision sums over a map are infinite, and averages no longer move.

  Attributes:
    gamma: variable `[channels]`, the learned scale.
    beta: variable `[channels]`, the learned shift.
    moving_mean: variable `[channels]`.
    moving_variance: variable `[channels]`.
  """

  def __init__(self, momentum: float, epsilon: float, initial_scale: float = 1.0, **kwargs):
    super().__init__(**kwargs)
    self._momentum, self._epsilon, self._initial_scale = momentum, epsilon, initial_scale

  def build(self, input_shape: tf.TensorShape) -> None:
    checks.check_maps('features', tf.TensorShape(input_shape))
    options: dict[str, Any] = {
        'shape': tf.TensorShape(input_shape)[-1:], 'experimental_autocast': False,
        'dtype': 'float64' if self.dtype == 'float64' else 'float32'}
    self.gamma = self.add_weight(
        'gamma', initializer=tf_keras.initializers.Constant(self._initial_scale), **options)
    self.beta = self.add_weight('beta', initializer='zeros', **options)
    options.update(trainable=False, synchronization=tf.VariableSynchronization.ON_READ,
                   aggregation=tf.VariableAggregation.MEAN)
    self.moving_mean = self.add_weight('moving_mean', initializer='zeros', **options)
    self.moving_variance = self.add_weight('moving_variance', initializer='ones', **options)
    super().build(input_shape)

  def frozen(self) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the scale and shift `[channels]` by which the moving averages normalize."""
    return self._scale_and_shift(self.moving_mean, self.moving_variance)

  def _scale_and_shift(self, mean: tf.Tensor, variance: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    scale = self.gamma * tf.math.rsqrt(variance + self._epsilon)
    return scale, self.beta - mean * scale

  def _statistics(self, total: tf.Tensor, squares: tf.Tensor, count: tf.Tensor
                  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and variance, `[channels]`, or the moving ones if there are no values.

    Args:
      total: sum of the values.
      squares: sum of their squares.
      count: number of the values of each channel.
    """
    mean, square = (values / tf.maximum(count, 1) for values in (total, squares))
    # Rounding may make the difference of two nearly equal numbers negative.
    variance = tf.maximum(square - tf.square(mean), 0)
    return (tf.where(count > 0, mean, self.moving_mean),
            tf.where(count > 0, variance, self.moving_variance))

  def _move_averages(self, mean: tf.Tensor, variance: tf.Tensor) -> None:
    """Moves the averages by `1 - momentum` of the way to a mean and a variance `[channels]`."""
    for variable, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
      variable.assign_sub((variable - tf.stop_gradient(now)) * (1 - self._momentum))

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'momentum': self._momentum, 'epsilon': self._epsilon}


def _sums(features: tf.Tensor, dtype: tf.DType) -> list[tf.Tensor]:
  """Returns the sums of values and of their squares over positions, both `[batch, channels]`."""
  features = tf.cast(features, dtype)
  return [tf.reduce_sum(values, [1, 2]) for values in (features, tf.square(features))]


@tf_keras.utils.register_keras_serializable(package='official_ext')
class FrozenBatchNorm(_AveragingNorm, prepared.PreparedLayer):
  """Batch norm that always normalizes with its moving averages, in training too.

  During a fixed-point solve, statistics of the batch would make each image depend on the others,
  and the map change from one evaluation to the next.  `watch` and `update` move the averages by
  the features of one evaluation outside the solve.  Applied to several maps, the norm has one
  mean and variance over all of them ("integrated" batch norm).
  """

  def __init__(self, epsilon: float = 1e-3, momentum: float = 0.99, initial_scale: float = 1.0,
               **kwargs):
    """Initializes the layer.

    Args:
      epsilon: small positive number that is added to the variance.
      momentum: share of the moving averages that one update keeps, in [0, 1].
      initial_scale: initial value of gamma.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(momentum, epsilon, initial_scale, **kwargs)

  def prepare(self, dtype: tf.DType) -> NormWeights:
    """Returns the scale and shift of the moving averages, in the dtype of the variables."""
    del dtype
    return NormWeights(*self.frozen())

  def run(self, weights: NormWeights, features: tf.Tensor) -> tf.Tensor:
    """Normalizes `[batch, height, width, channels]`, and keeps statistics if watched."""
    if weights.seen is not None:
      dtype = tf.float64 if features.dtype == tf.float64 else tf.float32
      sums = [tf.reduce_sum(value, 0) for value in _sums(features, dtype)]
      count = tf.cast(tf.reduce_prod(tf.shape(features)[:3]), dtype)
      weights.seen.append(tf.stack([*sums, count * tf.ones_like(sums[0])]))
    return (features * tf.cast(weights.scale, features.dtype)
            + tf.cast(weights.shift, features.dtype))

  def watch(self, weights: NormWeights) -> NormWeights:
    """Returns the same weights, with which `run` also keeps what `update` needs."""
    return weights._replace(seen=[])

  def update(self, weights: NormWeights) -> None:
    """Moves the averages by all features that `run` got with weights that `watch` returned.

    Of an empty batch there are none, and the averages stay.
    """
    self._move_averages(*self._statistics(*tf.unstack(tf.add_n(weights.seen))))

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'initial_scale': self._initial_scale}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class PresenceNorm(_AveragingNorm):
  """Batch norm whose statistics are those of the images for which a layer would run.

  In training a routed network computes every branch for every image.  Statistics over all of
  them would also count images that skip the branch at inference, and maps of zeros among them
  pull the moving variance to 0.  Here mean and variance are weighted sums over the present
  images, of all replicas if synchronized; if no image is present, the moving averages normalize
  and stay as they are.  With every image present the layer is plain batch norm.  At inference
  only moving averages are used, so an image never depends on its batch.

  Statistics are float32, or float64 if the layer is.
  """

  def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, synchronized: bool = False,
               **kwargs):
    """Initializes the layer.

    Args:
      momentum: share of the moving averages that one update keeps, in [0, 1].
      epsilon: small positive number that is added to the variance.
      synchronized: whether statistics are those of the batch of all replicas.
      **kwargs: arguments of `tf_keras.layers.Layer`; features may have another `dtype`.
    """
    super().__init__(momentum, epsilon, autocast=False, **kwargs)
    self._synchronized = synchronized
    self.is_folded = False

  def call(self, features: tf.Tensor, present: tf.Tensor | None = None,
           training: bool | None = None) -> tf.Tensor:
    """Normalizes.

    Args:
      features: `[batch, height, width, channels]`, of any floating dtype.
      present: boolean `[batch]`, the images that count in training; None: all.
      training: Python bool; None counts as False.

    Returns:
      The shape and dtype of `features`, also for images that are not present.
    """
    if self.uses_batch(training):
      mean, variance = self._batch_statistics(features, present)
      self._move_averages(mean, variance)
      scale, shift = self._scale_and_shift(mean, variance)
    else:
      scale, shift = self.frozen()
    return features * tf.cast(scale, features.dtype) + tf.cast(shift, features.dtype)

  def uses_batch(self, training: bool | None) -> bool:
    """Returns whether statistics are those of the batch, and not moving averages."""
    return bool(training) and self.trainable and not self.is_folded

  def fold(self) -> tf.Tensor:
    """Takes the scale out of the norm, for an export.

    The norm keeps its shift alone and never uses its batch again.  It gives the same result at
    inference if its input is multiplied by the scale.

    Returns:
      The scale `[channels]`.
    """
    scale, shift = self.frozen()
    for variable, value in ((self.gamma, 1.0), (self.beta, shift), (self.moving_mean, 0.0),
                            (self.moving_variance, 1 - self._epsilon)):
      variable.assign(tf.broadcast_to(
          tf.convert_to_tensor(value, variable.dtype), variable.shape))
    self.is_folded = True
    return scale

  def _batch_statistics(self, features: tf.Tensor, present: tf.Tensor | None
                        ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and variance over present images, or the moving ones if there is none."""
    size, channels = tf.shape(features), features.shape[-1]
    exact = self.moving_mean.dtype
    if present is None:
      present = tf.ones([size[0]], tf.bool)
    weight = tf.cast(present, exact)[:, None]
    # The sums of each image come first, so that no masked copy of the map is needed.
    sums = [tf.reduce_sum(weight * value, 0) for value in _sums(features, exact)]
    count = tf.reduce_sum(weight) * tf.cast(size[1] * size[2], exact)
    packed = tf.concat([*sums, count[None]], 0)
    context = tf.distribute.get_replica_context()
    if self._synchronized and context and context.num_replicas_in_sync > 1:
      packed = context.all_reduce(tf.distribute.ReduceOp.SUM, packed)
    total, squares, count = tf.split(packed, [channels, channels, 1])
    return self._statistics(total, squares, count)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'synchronized': self._synchronized}
