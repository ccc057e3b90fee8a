"""The router of a supernet's node: a small network that returns one logit per gate."""
from collections.abc import Mapping
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.modeling.backbones.caddet import conv_norm
from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import prepared
from official_ext.ops import checks

NORMS = ('batch', 'group')
# Gates are max(0, tanh) of the logits, so those of a new router are tanh(1.5) = 0.905.
INITIAL_BIAS = 1.5


def pool_quarters(features: tf.Tensor) -> tf.Tensor:
  """Averages the four quarters of a map, which share a row or column where a size is odd.

  Args:
    features: `[batch, height, width, channels]` with at least one pixel.

  Returns:
    `[batch, 2, 2, channels]`, float32 if the features have less precision.
  """
  if features.dtype in (tf.float16, tf.bfloat16):
    features = tf.cast(features, tf.float32)
  size = features.shape[1:3].as_list()
  if None not in size and min(size) > 1:
    return tf.nn.avg_pool2d(features, [length - length // 2 for length in size],
                            [length // 2 for length in size], 'VALID')
  height, width = (length or tf.shape(features)[axis] for axis, length in zip((1, 2), size))
  rows = tf.stack([tf.reduce_mean(features[:, :height - height // 2], 1),
                   tf.reduce_mean(features[:, height // 2:], 1)], 1)
  return tf.stack([tf.reduce_mean(rows[:, :, :width - width // 2], 2),
                   tf.reduce_mean(rows[:, :, width // 2:], 2)], 2)


@tf_keras.utils.register_keras_serializable(package='official_ext')
class PathRouter(prepared.PreparedLayer):
  """Two 1x1 convolutions of a node's pooled features (CADDet, section 3.1).

  Under mixed precision the router computes in float32.
  """

  def __init__(self, units: int, num_paths: int, norm: str = 'batch',
               norm_options: Mapping[str, Any] | None = None,
               kernel_regularizer: Any | None = None, **kwargs):
    """Initializes the router.

    Args:
      units: number of channels between the two convolutions.
      num_paths: number of gates.
      norm: `batch`, or `group` for steps of fewer than 8 images.  Groups have 8 channels; if 8
        does not divide `units` there is one group.
      norm_options: arguments of `PresenceNorm`; a group norm uses only `epsilon`.
      kernel_regularizer: regularizer of both kernels.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: unknown norm.
    """
    super().__init__(autocast=False, **kwargs)
    checks.check_one_of('norm', norm, NORMS)
    self._units, self._num_paths, self._norm_type = units, num_paths, norm
    self._norm_options = dict(norm_options or {})
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    options = {'kernel_regularizer': self._kernel_regularizer, 'dtype': self.dtype}
    if norm == 'batch':
      self._hidden = conv_norm.PointwiseConvNorm(
          units, norm_options=self._norm_options, name='hidden', **options)
    else:
      self._hidden = tf_keras.layers.Dense(
          units, use_bias=False, kernel_initializer=conv_norm.kaiming(), name='hidden', **options)
      self._norm = tf_keras.layers.GroupNormalization(
          units // 8 if units % 8 == 0 else 1, dtype=self.dtype, name='norm',
          epsilon=self._norm_options.get('epsilon', 1e-5))
    self._output = tf_keras.layers.Dense(
        num_paths, kernel_initializer=conv_norm.kaiming(), name='output',
        bias_initializer=tf_keras.initializers.Constant(INITIAL_BIAS), **options)

  def build(self, input_shape: tf.TensorShape) -> None:
    convolutions.build_in_scope([self._hidden, self._output], [input_shape, [None, self._units]])
    if self._norm_type == 'group':
      convolutions.build_in_scope([self._norm], [[None, 2, 2, self._units]])
    super().build(input_shape)

  def call(self, pooled: tf.Tensor, present: tf.Tensor | None = None,
           training: bool | None = None) -> tf.Tensor:
    """Computes the logits of the gates, see `decisions.decide`.

    Args:
      pooled: `[batch, 2, 2, channels]`, what `pool_quarters` returned.
      present: boolean `[batch]`, the images that batch norm counts in training; None: all.
      training: None counts as False.

    Returns:
      float32 `[batch, num_paths]`.
    """
    if self._norm_type == 'group':  # Group norm is the same in training and at inference.
      return self.run(None, pooled)
    return self._logits(
        self._hidden(tf.cast(pooled, self.dtype), present, training=training))

  def prepare(self, dtype: tf.DType) -> conv_norm.FoldedWeights | None:
    """Returns the weights of inference; None with group norm, which has nothing to fold.

    Args:
      dtype: of the node's features; not used, because the router computes in its own.
    """
    del dtype
    return self._hidden.prepare(self.dtype) if self._norm_type == 'batch' else None

  def run(self, weights: conv_norm.FoldedWeights | None, pooled: tf.Tensor) -> tf.Tensor:
    """Computes what `call` returns at inference, with weights that `prepare` returned."""
    pooled = tf.cast(pooled, self.dtype)
    if weights is None:  # Group norm has nothing to fold.
      return self._logits(tf.nn.relu(self._norm(self._hidden(pooled))))
    return self._logits(self._hidden.run(weights, pooled))

  def _logits(self, hidden: tf.Tensor) -> tf.Tensor:
    """Maps `[batch, 2, 2, units]` to logits `[batch, num_paths]`."""
    return tf.cast(self._output(tf.reduce_mean(hidden, [1, 2])), tf.float32)

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'units': self._units,
        'num_paths': self._num_paths,
        'norm': self._norm_type,
        'norm_options': dict(self._norm_options),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }
