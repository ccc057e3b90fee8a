"""1x1 and separable convolutions with the norm behind them, which at inference are one."""
import math
from typing import Any, Dict, Mapping, NamedTuple, Optional

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import norms

_DEPTHWISE_KAIMING = math.sqrt(2 / 9)  # Nine weights feed each channel; Keras counts all of them.


class ConvWeights(NamedTuple):
  """What inference needs of a layer, in the dtype of the features.

  Attributes:
    kernel: `[channels, filters]`, times the scale of the norm.
    shift: `[filters]`.
    depthwise: `[3, 3, channels, 1]`, of separable convolutions.
  """
  kernel: tf.Tensor
  shift: tf.Tensor
  depthwise: Optional[tf.Tensor] = None


def kaiming() -> tf_keras.initializers.Initializer:
  """Returns the initializer that keeps the variance of what a ReLU lets through (fan-in)."""
  return tf_keras.initializers.VarianceScaling(2.0, 'fan_in', 'untruncated_normal')


@tf_keras.utils.register_keras_serializable(package='official_ext')
class PointwiseConvNorm(tf_keras.layers.Layer):
  """A 1x1 convolution and a norm; no bias.

  At inference the norm is part of the kernel: `prepare` makes of the variables what `run` needs.
  Who decides in a conditional whether a layer runs prepares outside of it, where this happens
  once and not in every case.
  """

  def __init__(self, filters: int, strides: int = 1, relu: bool = True,
               norm_options: Optional[Mapping[str, Any]] = None,
               kernel_regularizer: Optional[Any] = None, **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the result.
      strides: 1 or 2; at 2 pixels 0, 2, 4, ... are the centers of the kernels.
      relu: whether ReLU follows the norm.
      norm_options: arguments of `PresenceNorm`.
      kernel_regularizer: of all kernels.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(**kwargs)
    self._filters, self._strides, self._relu = filters, strides, relu
    self._norm_options = dict(norm_options or {})
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    self._norm = norms.PresenceNorm(
        **self._norm_options, dtype=self.variable_dtype, name='norm')

  def build(self, input_shape: tf.TensorShape) -> None:
    self._pointwise = self.add_weight(
        'pointwise_kernel', [tf.TensorShape(input_shape)[-1], self._filters],
        initializer=kaiming(), regularizer=self._kernel_regularizer,
        experimental_autocast=False)
    convolutions.build_in_scope([self._norm], [[None, None, None, self._filters]])
    super().build(input_shape)

  def call(self, features: tf.Tensor, present: Optional[tf.Tensor] = None,
           training: Optional[bool] = None) -> tf.Tensor:
    """Maps `[batch, height, width, channels]` to `filters` channels; see `PresenceNorm`."""
    dtype = features.dtype
    if not self._norm.uses_batch(training):
      return self.run(self.prepare(dtype), features)
    features = self._sample(features, self._depthwise_kernel(dtype))
    features = _product(features, tf.cast(self._pointwise, dtype))
    features = self._norm(features, present, training=training)
    return tf.nn.relu(features) if self._relu else features

  def prepare(self, dtype: tf.DType) -> ConvWeights:
    """Returns the weights of inference, of this dtype."""
    kernel = tf.convert_to_tensor(self._pointwise)
    if self._norm.is_folded:
      shift = self._norm.beta
    else:
      scale, shift = self._norm.frozen()
      kernel *= scale
    return ConvWeights(
        tf.cast(kernel, dtype), tf.cast(shift, dtype), self._depthwise_kernel(dtype))

  def run(self, weights: ConvWeights, features: tf.Tensor) -> tf.Tensor:
    """Returns what `call` does at inference, with weights that `prepare` returned."""
    features = self._sample(features, weights.depthwise)
    return _product(features, weights.kernel, weights.shift, self._relu)

  def fold_norm(self) -> None:
    """Writes the norm of inference into the kernel, for an export; trained, it stays frozen."""
    self._pointwise.assign(self._pointwise * self._norm.fold())

  def _depthwise_kernel(self, dtype: tf.DType) -> Optional[tf.Tensor]:
    """Returns the weights of `_sample`, if it has any."""
    del dtype

  def _sample(self, features: tf.Tensor, depthwise: Optional[tf.Tensor]) -> tf.Tensor:
    """Returns what the 1x1 convolution sees."""
    del depthwise
    if self._strides == 1:
      return features
    # Every second pixel; a slice with strides is many times slower.
    return tf.nn.avg_pool2d(features, 1, self._strides, 'SAME')

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(),
        'filters': self._filters,
        'strides': self._strides,
        'relu': self._relu,
        'norm_options': dict(self._norm_options),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }


@tf_keras.utils.register_keras_serializable(package='official_ext')
class SeparableConvNorm(PointwiseConvNorm):
  """A depthwise 3x3 convolution, a pointwise one and a norm; no bias."""

  def build(self, input_shape: tf.TensorShape) -> None:
    self._depthwise = self.add_weight(
        'depthwise_kernel', [3, 3, tf.TensorShape(input_shape)[-1], 1],
        initializer=tf_keras.initializers.RandomNormal(stddev=_DEPTHWISE_KAIMING),
        regularizer=self._kernel_regularizer, experimental_autocast=False)
    super().build(input_shape)

  def _depthwise_kernel(self, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(self._depthwise, dtype)

  def _sample(self, features: tf.Tensor, depthwise: tf.Tensor) -> tf.Tensor:
    # On all sides: `SAME` has zeros at the end only where the stride is 2 and the size even.
    padding = [[0, 0], [1, 1], [1, 1], [0, 0]] if self._strides > 1 else 'SAME'
    strides = [1, self._strides, self._strides, 1]
    return tf.nn.depthwise_conv2d(features, depthwise, strides, padding)


def fold_norms(module: tf.Module) -> None:
  """Folds the norm of every convolution in a model, see `PointwiseConvNorm.fold_norm`."""
  for layer in module.submodules:
    if isinstance(layer, PointwiseConvNorm):
      layer.fold_norm()


def _product(features: tf.Tensor, kernel: tf.Tensor, bias: Optional[tf.Tensor] = None,
             relu: bool = False) -> tf.Tensor:
  """Returns a 1x1 convolution as a matrix product, `[batch, height, width, filters]`.

  What skips meets batches of one image, for which TensorFlow's convolutions may be many times
  slower when bias or norm are fused with them; and with a single thread the gradient of one of
  stride 2 may end the process.  Products do not depend on the batch.
  """
  batch, *size, channels = features.shape
  if None in size:
    size = tf.unstack(tf.shape(features)[1:3])
  rows = tf.matmul(tf.reshape(features, [-1, channels]), kernel)
  if bias is not None:
    rows = tf.nn.bias_add(rows, bias)
  if relu:  # Before the reshape, so that TensorFlow sees what it can do in one pass.
    rows = tf.nn.relu(rows)
  return tf.reshape(rows, [-1 if batch is None else batch, *size, kernel.shape[1]])
