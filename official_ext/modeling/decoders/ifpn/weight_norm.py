"""Weight-normalized convolutions whose kernels are computed once for many applications.

Variables have the dtype of the layer, float32 or float64, and `prepare` casts the normalized
kernel: norms are never computed in low precision.
"""
from collections.abc import Sequence
import random
from typing import Any, NamedTuple

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import prepared
from official_ext.ops import shapes


class NormalizedWeights(NamedTuple):
  """Tensors that a prepared convolution runs with.

  Attributes:
    kernel: the normalized kernel, in the shape of the variable.
    bias: `[filters]`, or None.
  """
  kernel: tf.Tensor
  bias: tf.Tensor | None


def padded_conv2d(features: tf.Tensor, kernel: tf.Tensor, stride: int = 1,
                  depthwise: bool = False) -> tf.Tensor:
  """Convolves with the same zero padding on all sides: `(kernel_size - 1) / 2` pixels.

  With stride 2 and even sizes Keras's `same` pads at the end only.

  Args:
    features: `[batch, height, width, channels]`.
    kernel: `[size, size, channels, filters]`, size odd; `[size, size, channels, 1]` if
      depthwise.
    stride: distance in pixels between neighboring results, in both directions.
    depthwise: whether each channel has a kernel of its own.

  Returns:
    `[batch, ceil(height / stride), ceil(width / stride), filters]`.
  """
  pad = (kernel.shape[0] - 1) // 2
  padding = 'SAME' if stride == 1 else [[0, 0], [pad, pad], [pad, pad], [0, 0]]
  if depthwise:
    if stride > 1:
      # OpenVINO refuses a depthwise convolution that gets the zeros as its own option.
      features, padding = tf.pad(features, padding), 'VALID'
    return tf.nn.depthwise_conv2d(features, kernel, [1, stride, stride, 1], padding)
  outputs = tf.nn.conv2d(features, kernel, stride, padding)
  keeps_shape = stride == 1 and kernel.shape[2] == kernel.shape[3]
  if keeps_shape or (features.shape[0] or 0) > 0:
    return outputs
  return convolutions.with_conv_shape(outputs, features, (stride, stride), kernel.shape[3])


@tf_keras.utils.register_keras_serializable(package='official_ext')
class WeightNormConv2D(prepared.PreparedLayer):
  """A convolution with the kernel `scale * direction / ||direction||` per output channel.

  Reference: Tim Salimans, Diederik P. Kingma, Weight Normalization: A Simple
  Reparameterization to Accelerate Training of Deep Neural Networks,
  https://arxiv.org/abs/1602.07868.  The scale starts at the norm of the direction, so that the
  initial kernel is the one that the initializer drew.
  """

  def __init__(self, filters: int, kernel_size: int = 3, strides: int = 1,
               use_bias: bool = True, depthwise: bool = False,
               kernel_initializer: Any = None, kernel_regularizer: Any | None = None,
               bias_regularizer: Any | None = None, **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the result; if depthwise, channels of the input too.
      kernel_size: odd height and width of the kernel; half of it pads the input on all sides.
      strides: distance in pixels between neighboring results, in both directions.
      use_bias: whether to add a bias, which starts at 0.
      depthwise: whether each channel has a kernel of its own.
      kernel_initializer: initializer of the direction; None: normal with deviation 0.01.
      kernel_regularizer: regularizer of the direction.
      bias_regularizer: regularizer of the bias.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(**kwargs)
    self._filters, self._kernel_size, self._strides = filters, kernel_size, strides
    self._use_bias, self._depthwise = use_bias, depthwise
    self._kernel_initializer = tf_keras.initializers.get(
        kernel_initializer or tf_keras.initializers.RandomNormal(stddev=0.01))
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    self._bias_regularizer = tf_keras.regularizers.get(bias_regularizer)

  def build(self, input_shape: tf.TensorShape) -> None:
    channels = tf.TensorShape(input_shape)[-1]
    size = [self._kernel_size] * 2
    shape = [*size, channels, 1 if self._depthwise else self._filters]
    config = self._kernel_initializer.get_config()
    if 'seed' in config and config['seed'] is None:
      # With a fixed seed the second draw equals the first, so the scale is this kernel's norm.
      config['seed'] = random.randint(1, 2**30)
    initializer = self._kernel_initializer.__class__.from_config(config)
    self.kernel = self.add_weight(
        'kernel', shape, initializer=initializer, regularizer=self._kernel_regularizer)
    self.scale = self.add_weight(
        'scale', [self._filters],
        initializer=lambda unused, dtype=None: self._norm(initializer(shape, dtype=dtype)))
    self.bias = None
    if self._use_bias:
      self.bias = self.add_weight('bias', [self._filters], initializer='zeros',
                                  regularizer=self._bias_regularizer)
    super().build(input_shape)

  def _norm(self, kernel: tf.Tensor) -> tf.Tensor:
    """Returns the Euclidean norm of the kernel of every output channel, `[filters]`."""
    axes = [0, 1, 3] if self._depthwise else [0, 1, 2]
    return tf.sqrt(tf.reduce_sum(tf.square(kernel), axes))

  def prepare(self, dtype: tf.DType) -> NormalizedWeights:
    """Returns the normalized kernel and the bias, cast to this dtype."""
    kernel = tf.convert_to_tensor(self.kernel)
    factor = tf.convert_to_tensor(self.scale) / self._norm(kernel)
    kernel *= factor[:, None] if self._depthwise else factor
    bias = None if self.bias is None else tf.cast(self.bias, dtype)
    return NormalizedWeights(tf.cast(kernel, dtype), bias)

  def run(self, weights: NormalizedWeights, features: tf.Tensor) -> tf.Tensor:
    """Convolves features of the weights' dtype."""
    outputs = padded_conv2d(features, weights.kernel, self._strides, self._depthwise)
    return outputs if weights.bias is None else outputs + weights.bias

  def multiply_adds(self, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the cost of one image, and the size of the result.

    Args:
      size: int32 `[2]`, height and width of the input.

    Returns:
      Multiply-adds, float64 scalar; height and width of the result, int32 `[2]`.
    """
    size = shapes.divide_up(size, self._strides)
    taps = self._kernel_size**2 * (1 if self._depthwise else self.kernel.shape[2])
    return tf.cast(tf.reduce_prod(size), tf.float64) * float(taps * self._filters), size

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'filters': self._filters,
        'kernel_size': self._kernel_size,
        'strides': self._strides,
        'use_bias': self._use_bias,
        'depthwise': self._depthwise,
        'kernel_initializer': tf_keras.initializers.serialize(self._kernel_initializer),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
        'bias_regularizer': tf_keras.regularizers.serialize(self._bias_regularizer),
    }


def chain_multiply_adds(convs: Sequence[WeightNormConv2D], size: tf.Tensor) -> tf.Tensor:
  """Returns the multiply-adds of convolutions that run one after the other.

  Args:
    convs: built convolutions.
    size: int32 `[2]`, height and width of the first one's input.

  Returns:
    Multiply-adds of one image, float64 scalar.
  """
  total = tf.constant(0.0, tf.float64)
  for conv in convs:
    cost, size = conv.multiply_adds(size)
    total += cost
  return total
