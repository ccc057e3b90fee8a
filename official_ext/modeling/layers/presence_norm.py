"""Batch norm whose statistics are those of the images for which a layer would run."""
from typing import Any, Dict, Optional, Tuple

import tensorflow as tf, tf_keras


@tf_keras.utils.register_keras_serializable(package='official_ext')
class PresenceNorm(tf_keras.layers.Layer):
  """Batch norm over the images of a batch that are present.

  In training a routed network computes every branch for every image; statistics over all of
  them would also count images that skip the branch at inference, and maps of zeros among them
  pull the moving variance to 0.  Here mean and variance are weighted sums over the present
  images, of all replicas if synchronized; without any, the moving averages normalize and stay
  as they are.  With every image present it is plain batch norm.  At inference only moving
  averages are used, so an image never depends on its batch.

  Statistics are float32, or float64 if the layer is.
  """

  def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, synchronized: bool = False,
               **kwargs):
    """Initializes the layer.

    Args:
      momentum: of the moving averages.
      epsilon: added to the variance.
      synchronized: statistics are those of the batch of all replicas.
      **kwargs: arguments of `tf_keras.layers.Layer`; `dtype` is that of statistics and
        variables, features may have another one.
    """
    super().__init__(autocast=False, **kwargs)
    self._momentum, self._epsilon, self._synchronized = momentum, epsilon, synchronized
    self.is_folded = False

  def build(self, input_shape: tf.TensorShape) -> None:
    channels = tf.TensorShape(input_shape)[-1]
    self.gamma = self.add_weight('gamma', [channels], initializer='ones')
    self.beta = self.add_weight('beta', [channels], initializer='zeros')
    moving = {'trainable': False, 'synchronization': tf.VariableSynchronization.ON_READ,
              'aggregation': tf.VariableAggregation.MEAN}
    self.moving_mean = self.add_weight('moving_mean', [channels], initializer='zeros', **moving)
    self.moving_variance = self.add_weight(
        'moving_variance', [channels], initializer='ones', **moving)
    super().build(input_shape)

  def call(self, features: tf.Tensor, present: Optional[tf.Tensor] = None,
           training: Optional[bool] = None) -> tf.Tensor:
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
      self._update(mean, variance)
      scale, shift = self._affine(mean, variance)
    else:
      scale, shift = self.frozen()
    return features * tf.cast(scale, features.dtype) + tf.cast(shift, features.dtype)

  def uses_batch(self, training: Optional[bool]) -> bool:
    """Returns whether statistics are those of the batch, and not moving averages."""
    return bool(training) and self.trainable and not self.is_folded

  def frozen(self) -> Tuple[tf.Tensor, tf.Tensor]:
    """Returns the scale and shift `[channels]` that the moving averages make."""
    return self._affine(self.moving_mean, self.moving_variance)

  def fold(self) -> tf.Tensor:
    """Keeps the shift of the moving averages alone and returns their scale `[channels]`.

    Whoever multiplies what comes in by the scale has the same result as before, at inference;
    the norm does not use its batch any more.
    """
    scale, shift = self.frozen()
    for variable, value in ((self.gamma, 1.0), (self.beta, shift), (self.moving_mean, 0.0),
                            (self.moving_variance, 1 - self._epsilon)):
      variable.assign(tf.broadcast_to(
          tf.convert_to_tensor(value, variable.dtype), variable.shape))
    self.is_folded = True
    return scale

  def _affine(self, mean, variance):
    scale = self.gamma * tf.math.rsqrt(variance + self._epsilon)
    return scale, self.beta - mean * scale

  def _batch_statistics(self, features: tf.Tensor, present: Optional[tf.Tensor]
                        ) -> Tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and variance over present images, or the moving ones if there is none."""
    features = tf.cast(features, self.dtype)
    size = tf.shape(features)
    if present is None:
      present = tf.ones([size[0]], tf.bool)
    weight = tf.cast(present, self.dtype)[:, None]
    # Sums of each image come first: no masked copy of the map is made.
    sums = [tf.reduce_sum(weight * tf.reduce_sum(values, [1, 2]), 0)
            for values in (features, tf.square(features))]
    count = tf.reduce_sum(weight) * tf.cast(size[1] * size[2], self.dtype)
    packed = tf.concat([*sums, count[None]], 0)
    context = tf.distribute.get_replica_context()
    if self._synchronized and context and context.num_replicas_in_sync > 1:
      packed = context.all_reduce(tf.distribute.ReduceOp.SUM, packed)
    channels = features.shape[-1]
    total, squares, count = tf.split(packed, [channels, channels, 1])
    mean, square = total / tf.maximum(count, 1), squares / tf.maximum(count, 1)
    # The difference of two nearly equal numbers may round to less than nothing.
    variance = tf.maximum(square - tf.square(mean), 0)
    return (tf.where(count > 0, mean, self.moving_mean),
            tf.where(count > 0, variance, self.moving_variance))

  def _update(self, mean: tf.Tensor, variance: tf.Tensor) -> None:
    for variable, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
      variable.assign_sub((variable - tf.stop_gradient(now)) * (1 - self._momentum))

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(), 'momentum': self._momentum, 'epsilon': self._epsilon,
        'synchronized': self._synchronized}
