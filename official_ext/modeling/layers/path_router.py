"""The router of a supernet's node: which of its paths an image takes."""
from typing import Any, Dict, Mapping, Optional

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import blocks
from official_ext.modeling.layers import presence_norm

# Of gates; what is below counts as shut (section 3.1).
THRESHOLD = 1e-4
NORMS = ('batch', 'group')
# The paper's activation is max(0, tanh): gates of a new router are tanh(1.5) = 0.905.
INITIAL_BIAS = 1.5


def pool_quarters(features: tf.Tensor) -> tf.Tensor:
  """Means over the four quarters of a map, which share a row or column where a size is odd.

  Args:
    features: `[batch, height, width, channels]`, of one pixel or more.

  Returns:
    `[batch, 2, 2, channels]`, float32 if the features are of less precision.
  """
  if features.dtype in (tf.float16, tf.bfloat16):
    features = tf.cast(features, tf.float32)
  known = features.shape[1:3].as_list()
  if None not in known and min(known) > 1:
    # One pass; slices would copy the map first.
    return tf.nn.avg_pool2d(features, [size - size // 2 for size in known],
                            [size // 2 for size in known], 'VALID')
  for axis in (1, 2):
    size = tf.shape(features)[axis]
    ends = (features[:, :size - size // 2], features[:, size // 2:]) if axis == 1 else (
        features[:, :, :size - size // 2], features[:, :, size // 2:])
    features = tf.stack([tf.reduce_mean(end, axis) for end in ends], axis)
  return features


def kaiming() -> tf_keras.initializers.Initializer:
  """Returns the initializer that keeps the variance of what a ReLU lets through (fan-in)."""
  return tf_keras.initializers.VarianceScaling(2.0, 'fan_in', 'untruncated_normal')


@tf_keras.utils.register_keras_serializable(package='official_ext')
class PathRouter(tf_keras.layers.Layer):
  """Two 1x1 convolutions of a node's pooled features, and max(0, tanh) (CADDet, section 3.1).

  float32 throughout under mixed precision.
  """

  def __init__(self, units: int, num_paths: int, norm: str = 'batch',
               norm_options: Optional[Mapping[str, Any]] = None,
               kernel_regularizer: Optional[Any] = None, **kwargs):
    """Initializes the router.

    Args:
      units: channels between the two convolutions.
      num_paths: number of gates.
      norm: `batch`, or `group` for steps of fewer than 8 images: groups of 8 channels, or one
        group where 8 does not divide `units`.
      norm_options: arguments of `PresenceNorm`; of a group norm only `epsilon` is used.
      kernel_regularizer: of both kernels.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ValueError: unknown norm.
    """
    super().__init__(autocast=False, **kwargs)
    if norm not in NORMS:
      raise ValueError(f'router_norm is {norm!r}; allowed are `batch` and `group`: change '
                       'backbone.caddet.router_norm.')
    self._units, self._num_paths, self._norm_type = units, num_paths, norm
    self._norm_options = dict(norm_options or {})
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    options = {'kernel_regularizer': self._kernel_regularizer, 'dtype': self.dtype}
    # A 1x1 convolution; maps of 2x2 pixels are too small for a convolution's preparations.
    self._hidden = tf_keras.layers.Dense(
        units, use_bias=False, kernel_initializer=kaiming(), name='hidden', **options)
    if norm == 'batch':
      self._norm = presence_norm.PresenceNorm(
          **self._norm_options, dtype=self.dtype, name='norm')
    else:
      self._norm = tf_keras.layers.GroupNormalization(
          units // 8 if units % 8 == 0 else 1, dtype=self.dtype, name='norm',
          epsilon=self._norm_options.get('epsilon', 1e-5))
    self._output = tf_keras.layers.Dense(
        num_paths, kernel_initializer=kaiming(), name='output',
        bias_initializer=tf_keras.initializers.Constant(INITIAL_BIAS), **options)

  def build(self, input_shape: tf.TensorShape) -> None:
    hidden = [None, 2, 2, self._units]
    blocks.build_in_scope(
        [self._hidden, self._norm, self._output], [input_shape, hidden, [None, self._units]])
    super().build(input_shape)

  def call(self, pooled: tf.Tensor, present: Optional[tf.Tensor] = None,
           training: Optional[bool] = None) -> tf.Tensor:
    """Returns gates, float32 `[batch, paths]` in [0, 1], 0 where they are below the threshold.

    Args:
      pooled: `[batch, 2, 2, channels]` of `pool_quarters`.
      present: boolean `[batch]`, the images that count in batch norm; None: all.
      training: None counts as False.
    """
    # Keras takes a product of two dimensions as it is; of four it takes apart and puts together.
    rows = tf.reshape(tf.cast(pooled, self.dtype), [-1, pooled.shape[-1]])
    hidden = tf.reshape(self._hidden(rows), [-1, 2, 2, self._units])
    if self._norm_type == 'batch':
      hidden = self._norm(hidden, present, training=training)
    else:
      hidden = self._norm(hidden)
    logits = self._output(tf.reduce_mean(tf.nn.relu(hidden), [1, 2]))
    gates = tf.tanh(tf.cast(logits, tf.float32))
    return tf.where(gates >= THRESHOLD, gates, 0.0)

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(),
        'units': self._units,
        'num_paths': self._num_paths,
        'norm': self._norm_type,
        'norm_options': dict(self._norm_options),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }
