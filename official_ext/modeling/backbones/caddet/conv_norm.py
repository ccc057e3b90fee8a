"""1x1 and separable convolutions followed by a norm, which inference folds into the kernel."""
from collections.abc import Mapping
import math
from typing import Any, NamedTuple

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import norms
from official_ext.modeling.layers import prepared

# Nine weights feed each channel of a depthwise convolution; the fan-in that Keras computes is that
# of all channels.
_DEPTHWISE_KAIMING = math.sqrt(2 / 9)


class FoldedWeights(NamedTuple):
  """The weights of a convolution with its norm at inference, in the dtype of the features.

  Attributes:
    kernel: `[channels, filters]`, the kernel multiplied by the scale of the norm.
    shift: `[filters]`, the shift of the norm.
    depthwise: `[3, 3, channels, 1]`, the depthwise kernel of a separable convolution.
  """
  kernel: tf.Tensor
  shift: tf.Tensor
  depthwise: tf.Tensor | None = None


def kaiming() -> tf_keras.initializers.Initializer:
  """Returns Kaiming's initializer, which keeps the variance through a ReLU (fan-in, normal)."""
  return tf_keras.initializers.VarianceScaling(2.0, 'fan_in', 'untruncated_normal')


@tf_keras.utils.register_keras_serializable(package='official_ext')
class PointwiseConvNorm(prepared.PreparedLayer):
  """A 1x1 convolution without bias, followed by `PresenceNorm`.

  At inference the scale of the norm is part of the kernel.  Call `prepare` outside `tf.cond`, so
  that the kernel is folded once.
  """

  def __init__(self, filters: int, strides: int = 1, relu: bool = True,
               norm_options: Mapping[str, Any] | None = None,
               kernel_regularizer: Any | None = None, **kwargs):
    """Initializes the layer.

    Args:
      filters: number of channels of the result.
      strides: 1 or 2; with 2 the kernels are centered on pixels 0, 2, 4, ...
      relu: whether ReLU follows the norm.
      norm_options: arguments of `PresenceNorm`.
      kernel_regularizer: regularizer of all kernels.
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

  def call(self, features: tf.Tensor, present: tf.Tensor | None = None,
           training: bool | None = None) -> tf.Tensor:
    """Convolves and normalizes.

    Args:
      features: `[batch, height, width, channels]`.
      present: boolean `[batch]`, the images that the norm counts in training; None: all.
      training: None counts as False.

    Returns:
      `[batch, height, width, filters]`, height and width divided by the stride and rounded up.
    """
    dtype = features.dtype
    if not self._norm.uses_batch(training):
      return self.run(self.prepare(dtype), features)
    features = self._sample(features, self._depthwise_kernel(dtype))
    features = _product(features, tf.cast(self._pointwise, dtype))
    features = self._norm(features, present, training=training)
    return tf.nn.relu(features) if self._relu else features

  def prepare(self, dtype: tf.DType) -> FoldedWeights:
    """Returns the weights of inference, cast to `dtype` after folding; see `PreparedLayer`."""
    kernel = tf.convert_to_tensor(self._pointwise)
    if self._norm.is_folded:
      shift = self._norm.beta
    else:
      scale, shift = self._norm.frozen()
      kernel *= scale
    return FoldedWeights(
        tf.cast(kernel, dtype), tf.cast(shift, dtype), self._depthwise_kernel(dtype))

  def run(self, weights: FoldedWeights, features: tf.Tensor) -> tf.Tensor:
    """Computes what `call` returns at inference, with weights that `prepare` returned."""
    features = self._sample(features, weights.depthwise)
    return _product(features, weights.kernel, weights.shift, self._relu)

  def fold_norm(self) -> None:
    """Multiplies the kernel by the norm's scale for an export; the norm is frozen from then on."""
    self._pointwise.assign(self._pointwise * self._norm.fold())

  def _depthwise_kernel(self, dtype: tf.DType) -> tf.Tensor | None:
    """Returns the depthwise kernel, or None without one."""
    del dtype
    return None

  def _sample(self, features: tf.Tensor, depthwise: tf.Tensor | None) -> tf.Tensor:
    """Returns the features that the 1x1 convolution multiplies.

    Args:
      features: what the layer is called with.
      depthwise: what `_depthwise_kernel` returned.
    """
    del depthwise
    if self._strides == 1:
      return features
    # Takes every second pixel; a slice with strides is many times slower.
    return tf.nn.avg_pool2d(features, 1, self._strides, 'SAME')

  def get_config(self) -> dict[str, Any]:
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
  """A depthwise 3x3 and a 1x1 convolution without bias, followed by `PresenceNorm`."""

  def build(self, input_shape: tf.TensorShape) -> None:
    self._depthwise = self.add_weight(
        'depthwise_kernel', [3, 3, tf.TensorShape(input_shape)[-1], 1],
        initializer=tf_keras.initializers.RandomNormal(stddev=_DEPTHWISE_KAIMING),
        regularizer=self._kernel_regularizer, experimental_autocast=False)
    super().build(input_shape)

  def _depthwise_kernel(self, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(self._depthwise, dtype)

  def _sample(self, features: tf.Tensor, depthwise: tf.Tensor) -> tf.Tensor:
    strides = [1, self._strides, self._strides, 1]
    if self._strides == 1:
      return tf.nn.depthwise_conv2d(features, depthwise, strides, 'SAME')
    # Zeros on all sides: `SAME` pads only the end where the stride is 2 and the size is even.
    # OpenVINO refuses a depthwise convolution that gets them as its own option.
    features = tf.pad(features, [[0, 0], [1, 1], [1, 1], [0, 0]])
    return tf.nn.depthwise_conv2d(features, depthwise, strides, 'VALID')


def fold_norms(module: tf.Module) -> None:
  """Folds the norms of all convolutions of this file in a model, for an export.

  Args:
    module: the model.
  """
  for layer in module.submodules:
    if isinstance(layer, PointwiseConvNorm):
      layer.fold_norm()


def _product(features: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None = None,
             relu: bool = False) -> tf.Tensor:
  """Computes a 1x1 convolution as a matrix product.

  A layer that skips often runs for one image, and TensorFlow's convolutions of one image may be
  many times slower when a bias or a norm is fused with them.  With a single thread the gradient
  of a 1x1 convolution of stride 2 may end the process.  Matrix products have neither fault.

  Args:
    features: `[batch, height, width, channels]`.
    kernel: `[channels, filters]`.
    bias: `[filters]`, or None.
    relu: whether ReLU follows.

  Returns:
    `[batch, height, width, filters]`.
  """
  batch, *size, channels = features.shape
  if None in size:
    size = tf.unstack(tf.shape(features)[1:3])
  rows = tf.matmul(tf.reshape(features, [-1, channels]), kernel)
  if bias is not None:
    rows = tf.nn.bias_add(rows, bias)
  if relu:  # ReLU comes before the reshape, so that TensorFlow fuses it with the product.
    rows = tf.nn.relu(rows)
  return tf.reshape(rows, [-1 if batch is None else batch, *size, kernel.shape[1]])
