"""Convolutions that several networks share, and helpers to build them."""
from collections.abc import Sequence
import functools
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.ops import checks
from official_ext.ops import halved_conv
from official_ext.ops import shapes


@tf_keras.utils.register_keras_serializable(package='official_ext')
class Conv2D(tf_keras.layers.Conv2D):
  """A `same`-padded convolution whose result has the right shape for an empty batch too.

  For an empty batch TensorFlow's oneDNN kernel returns the shape of the input, and the next
  operation fails.  The layer reshapes the result, which costs nothing.
  """

  def __init__(self, filters: int, kernel_size: Any, symmetric_padding: bool = False, **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the result.
      kernel_size: height and width, or one number for both.
      symmetric_padding: pad `(size - 1) / 2` zeros on all sides, as PyTorch code does, so
        that the center of an odd kernel lies on pixel `stride * i`.  Keras pads more zeros at
        the end if the stride is 2 and the size even.
      **kwargs: arguments of `tf_keras.layers.Conv2D`; the padding is always `same`.

    Raises:
      ArgumentError: an even kernel with symmetric padding, or channels that are not the last axis.
    """
    kwargs['padding'] = 'same'
    super().__init__(filters, kernel_size, **kwargs)
    _check_data_format(self.data_format)
    if symmetric_padding and any(size % 2 == 0 for size in self.kernel_size):
      raise checks.ArgumentError(
          'kernel_size', f'kernel_size is {self.kernel_size}; with symmetric padding, as '
          'deformable convolutions have it, allowed are odd numbers, because an even kernel has no '
          'center.')
    self._symmetric_padding = symmetric_padding

  def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    if self._symmetric_padding:
      pads = [[(size - 1) // 2 * rate] * 2
              for size, rate in zip(self.kernel_size, self.dilation_rate)]
      outputs = tf.nn.conv2d(inputs, kernel, self.strides, [[0, 0], *pads, [0, 0]],
                             dilations=self.dilation_rate)
    elif self._halves(inputs) and dilation_has_gradient(inputs.dtype):
      outputs = halved_conv.convolve(inputs, kernel, self.dilation_rate)
    elif self.dilation_rate != (1, 1) and dilation_has_gradient(inputs.dtype):
      outputs = tf.nn.conv2d(inputs, kernel, self.strides, 'SAME', dilations=self.dilation_rate)
    else:
      outputs = super().convolution_op(inputs, kernel)
    keeps_shape = (inputs.shape[-1] == self.filters and self.strides == (1, 1)
                   and self.dilation_rate == (1, 1))
    if keeps_shape or (inputs.shape[0] or 0) > 0:
      return outputs
    return with_conv_shape(outputs, inputs, self.strides, self.filters)

  def _halves(self, inputs: tf.Tensor) -> bool:
    """Returns whether the batch may be one image with a map that is convolved in halves."""
    return self.strides == (1, 1) and halved_conv.is_worth_it(
        inputs.shape, self.kernel_size, inputs.dtype.size)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'symmetric_padding': self._symmetric_padding}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class SeparableConv2D(tf_keras.layers.SeparableConv2D):
  """A `same`-padded depthwise convolution, then a 1x1 convolution.

  Both kernels have the same kind of initializer and regularizer.  The result has the right shape
  for an empty batch too, see `Conv2D`.
  """

  def __init__(self, filters: int, kernel_size: Any,
               kernel_initializer: Any = 'glorot_uniform', kernel_regularizer: Any | None = None,
               **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the result.
      kernel_size: height and width, or one number for both.
      kernel_initializer: initializer of both kernels; each gets a copy.
      kernel_regularizer: regularizer of both kernels.
      **kwargs: arguments of `tf_keras.layers.SeparableConv2D`; the padding is always `same`.

    Raises:
      ArgumentError: channels that are not the last axis.
    """
    initializer = tf_keras.initializers.get(kernel_initializer)
    regularizer = tf_keras.regularizers.get(kernel_regularizer)
    super().__init__(filters, kernel_size, **{
        'depthwise_initializer': copy_initializer(initializer),
        'pointwise_initializer': copy_initializer(initializer),
        'depthwise_regularizer': regularizer, 'pointwise_regularizer': regularizer, **kwargs,
        'padding': 'same'})
    _check_data_format(self.data_format)

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    outputs = tf.nn.separable_conv2d(
        inputs, self.depthwise_kernel, self.pointwise_kernel, [1, *self.strides, 1], 'SAME',
        dilations=self.dilation_rate)
    keeps_shape = inputs.shape[-1] == self.filters and self.strides == (1, 1)
    if not keeps_shape and not inputs.shape[0]:
      outputs = with_conv_shape(outputs, inputs, self.strides, self.filters)
    if self.use_bias:
      outputs = tf.nn.bias_add(outputs, self.bias)
    return self.activation(outputs)


def _check_data_format(data_format: str) -> None:
  """Raises an `ArgumentError` unless channels are the last axis, as in all maps of the package."""
  checks.check_one_of('data_format', data_format, ('channels_last',))


def l2_regularizer(weight_decay: float) -> tf_keras.regularizers.Regularizer | None:
  """Returns the regularizer of kernels, or None if the weight decay is 0.

  Args:
    weight_decay: a task's `losses.l2_weight_decay`; the loss is half of it times the squared
      weights.
  """
  # Model Garden halves too, because it uses tf.nn.l2_loss.
  return tf_keras.regularizers.L2(weight_decay / 2) if weight_decay else None


def dilation_has_gradient(dtype: tf.DType) -> bool:
  """Returns whether `tf.nn.conv2d` with dilations has gradients on this machine.

  It has none on a CPU without oneDNN.  Keras copies the pixels to a layout in which no dilation
  is needed, which works everywhere; `tf.nn.conv2d` computes the same without the copies.

  Args:
    dtype: of the features.
  """
  with tf.init_scope():
    return tf.executing_eagerly() and _differentiates_dilation(tf.as_dtype(dtype))


@functools.cache
def _differentiates_dilation(dtype: tf.DType) -> bool:
  # The gradient operations are called directly, because no gradient tape records in
  # `tf.init_scope`.
  options = {'out_backprop': tf.ones([1, 5, 5, 3], dtype), 'strides': [1] * 4, 'padding': 'SAME',
             'dilations': [1, 2, 2, 1]}
  try:
    tf.raw_ops.Conv2DBackpropFilter(
        input=tf.ones([1, 5, 5, 2], dtype), filter_sizes=[3, 3, 2, 3], **options)
    tf.raw_ops.Conv2DBackpropInput(
        input_sizes=[1, 5, 5, 2], filter=tf.ones([3, 3, 2, 3], dtype), **options)
  except tf.errors.OpError:
    return False
  return True


def with_conv_shape(outputs: tf.Tensor, inputs: tf.Tensor, strides: Sequence[int],
                    filters: int) -> tf.Tensor:
  """Reshapes the result of a `same`-padded convolution to its right shape.

  Args:
    outputs: the result, whose shape is wrong if the batch is empty.
    inputs: `[batch, height, width, channels]`.
    strides: of height and width.
    filters: channels of the result.

  Returns:
    `[batch, ceil(height / stride), ceil(width / stride), filters]`.
  """
  size, known = tf.shape(inputs), inputs.shape
  height, width = (
      shapes.divide_up(known[axis] or size[axis], strides[axis - 1]) for axis in (1, 2))
  # If height and width are known, TensorFlow's graph optimizer drops a reshape to the shape that
  # it infers.  It keeps a reshape to another rank.
  return tf.squeeze(tf.reshape(outputs, [size[0], height, width, 1, filters]), axis=3)


class ConvBlock(tf_keras.layers.Layer):
  """Base of layers whose convolutions have common initializers and regularizers."""

  def __init__(self, kernel_initializer: Any = 'glorot_uniform',
               kernel_regularizer: Any | None = None, bias_regularizer: Any | None = None,
               **kwargs):
    """Initializes the layer.

    Args:
      kernel_initializer: initializer of all kernels; each convolution gets a copy.
      kernel_regularizer: regularizer of all kernels.
      bias_regularizer: regularizer of all biases.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(**kwargs)
    self._kernel_initializer = tf_keras.initializers.get(kernel_initializer)
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    self._bias_regularizer = tf_keras.regularizers.get(bias_regularizer)

  def conv(self, kernel_size: int, name: str, filters: int, *, cls: type = Conv2D,
           **options: Any) -> tf_keras.layers.Layer:
    """Makes a convolution with the layer's dtype policy, initializer and regularizers.

    Args:
      kernel_size: height and width of the kernel.
      name: name of the convolution.
      filters: channels of the result.
      cls: class of the convolution.
      **options: more arguments of `cls`; they take precedence over the layer's.

    Returns:
      A layer of class `cls`.
    """
    return cls(filters, kernel_size, name=name, **{
        'dtype': self.dtype_policy,
        'kernel_initializer': copy_initializer(self._kernel_initializer),
        'kernel_regularizer': self._kernel_regularizer,
        'bias_regularizer': self._bias_regularizer, **options})

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'kernel_initializer': tf_keras.initializers.serialize(self._kernel_initializer),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
        'bias_regularizer': tf_keras.regularizers.serialize(self._bias_regularizer),
    }


def copy_initializer(initializer: tf_keras.initializers.Initializer
                     ) -> tf_keras.initializers.Initializer:
  """Returns a copy of an initializer, because one that is used twice repeats its values."""
  return initializer.__class__.from_config(initializer.get_config())


def build_in_scope(layers: Sequence[tf_keras.layers.Layer], shapes: Sequence[Any]) -> None:
  """Builds layers before `tf.cond` calls them, each under a name scope of its own.

  Args:
    layers: layers without variables.
    shapes: one input shape per layer.
  """
  for layer, shape in zip(layers, shapes):
    with tf.name_scope(layer.name):
      layer.build(shape)
    layer.built = True
