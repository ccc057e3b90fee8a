"""Small layers that several networks share."""
import functools
import math
from typing import Any, Dict, Optional, Sequence

import tensorflow as tf, tf_keras

# Patches of a map, laid out as one matrix, above which a single image is halved.
_MANY_BYTES = 2**28


@tf_keras.utils.register_keras_serializable(package='official_ext')
class Conv2D(tf_keras.layers.Conv2D):
  """A `same`-padded convolution whose result has the right shape for an empty batch too.

  TensorFlow's oneDNN kernel returns the input's shape when the batch is empty, and the
  next operation fails.  A reshape, which costs nothing, puts that right.
  """

  def __init__(self, filters: int, kernel_size: Any, symmetric_padding: bool = False, **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the result.
      kernel_size: height and width, or one number for both.
      symmetric_padding: pad half of an odd kernel on all sides, as papers' code does, so
        that the kernel's center lies on pixel `stride * i`; Keras pads more at the end
        where the stride is 2 and the size even.
      **kwargs: arguments of `tf_keras.layers.Conv2D`; the padding is always `same`.
    """
    kwargs['padding'] = 'same'
    super().__init__(filters, kernel_size, **kwargs)
    self._symmetric_padding = symmetric_padding

  def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    if self._symmetric_padding:
      pads = [[(size - 1) // 2 * rate] * 2
              for size, rate in zip(self.kernel_size, self.dilation_rate)]
      outputs = tf.nn.conv2d(inputs, kernel, self.strides, [[0, 0], *pads, [0, 0]],
                             dilations=self.dilation_rate)
    elif self._halves(inputs) and dilation_has_gradient(inputs.dtype):
      outputs = conv2d_in_halves(inputs, kernel, self.dilation_rate)
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
    """Whether the batch may be a single image with a map so large that it should be halved."""
    patches = [*inputs.shape[1:], *self.kernel_size, inputs.dtype.size]
    is_centered = self.kernel_size != (1, 1) and all(size % 2 for size in self.kernel_size)
    return (inputs.shape[0] in (None, 1) and self.strides == (1, 1) and is_centered
            and None not in patches and math.prod(patches) > _MANY_BYTES)

  def get_config(self) -> Dict[str, Any]:
    return {**super().get_config(), 'symmetric_padding': self._symmetric_padding}


def l2_regularizer(weight_decay: float) -> Optional[tf_keras.regularizers.Regularizer]:
  """Returns the regularizer of a task's `losses.l2_weight_decay`; none where that is 0."""
  # Half, as tf.nn.l2_loss has it, and Model Garden with it.
  return tf_keras.regularizers.L2(weight_decay / 2) if weight_decay else None


def conv2d_in_halves(inputs: tf.Tensor, kernel: tf.Tensor, dilations: Sequence[int]) -> tf.Tensor:
  """A `same`-padded convolution of the upper and the lower halves of images, as one batch.

  For a single image TensorFlow 2.20 keeps the kernel in a layout for which oneDNN has slow code
  only: two halves take half of the time, and where the map is very large (5x5 on 200 x 304 x 256)
  seconds instead of many minutes.

  Args:
    inputs: `[batch, height, width, channels]`.
    kernel: `[odd height, width, channels, filters]`.
    dilations: of height and width.

  Returns:
    `[batch, height, width, filters]`.
  """
  batch, height = tf.shape(inputs)[0], inputs.shape[1]
  half = -(-height // 2)
  rows, columns = (rate * (size - 1) // 2 for rate, size in zip(dilations, kernel.shape))
  padded = tf.pad(inputs, [[0, 0], [rows, rows + 2 * half - height], [0, 0], [0, 0]])
  halves = tf.concat([padded[:, :half + 2 * rows], padded[:, half:]], axis=0)
  outputs = tf.nn.conv2d(halves, kernel, 1, [[0, 0], [0, 0], [columns, columns], [0, 0]],
                         dilations=dilations)
  return tf.concat([outputs[:batch], outputs[batch:]], axis=1)[:, :height]


def dilation_has_gradient(dtype: tf.DType) -> bool:
  """Whether a dilated `tf.nn.conv2d` can be trained here: not on a CPU without oneDNN.

  Keras lays the pixels of a dilated convolution out anew, which works everywhere; TensorFlow's
  own kernel computes the same without the copies.
  """
  with tf.init_scope():
    return tf.executing_eagerly() and _differentiates_dilation(tf.as_dtype(dtype))


@functools.lru_cache(maxsize=None)
def _differentiates_dilation(dtype: tf.DType) -> bool:
  # Called directly: gradient tapes do not record in `tf.init_scope`.
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
  """Gives the result of a `same`-padded convolution the shape that it has to have."""
  size, known = tf.shape(inputs), inputs.shape
  height, width = (-(-(known[axis] or size[axis]) // strides[axis - 1]) for axis in (1, 2))
  # Where height and width are known, TensorFlow's optimizer of graphs takes a reshape to the
  # shape that it expects for one that does nothing, and drops it; not so one to another rank.
  return tf.squeeze(tf.reshape(outputs, [size[0], height, width, 1, filters]), axis=3)


class ConvBlock(tf_keras.layers.Layer):
  """Base of layers that are made of convolutions with the same options."""

  def __init__(self, kernel_initializer: Any = 'glorot_uniform',
               kernel_regularizer: Optional[Any] = None, bias_regularizer: Optional[Any] = None,
               **kwargs):
    """Initializes the layer.

    Args:
      kernel_initializer: of all convolutions.
      kernel_regularizer: of all kernels.
      bias_regularizer: of all biases.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(**kwargs)
    self._kernel_initializer = tf_keras.initializers.get(kernel_initializer)
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    self._bias_regularizer = tf_keras.regularizers.get(bias_regularizer)

  def conv(self, filters: int, kernel_size: int, name: str, cls: type = Conv2D,
           **options: Any) -> tf_keras.layers.Layer:
    """Returns a convolution with the options of the layer."""
    return cls(filters, kernel_size, name=name, **{
        'dtype': self.dtype_policy,
        'kernel_initializer': copy_initializer(self._kernel_initializer),
        'kernel_regularizer': self._kernel_regularizer,
        'bias_regularizer': self._bias_regularizer, **options})

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(),
        'kernel_initializer': tf_keras.initializers.serialize(self._kernel_initializer),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
        'bias_regularizer': tf_keras.regularizers.serialize(self._bias_regularizer),
    }


def copy_initializer(initializer: tf_keras.initializers.Initializer
                     ) -> tf_keras.initializers.Initializer:
  """Returns a copy of an initializer: one that is used twice draws the same values twice."""
  return initializer.__class__.from_config(initializer.get_config())


def build_in_scope(layers: Sequence[tf_keras.layers.Layer], shapes: Sequence[Any]) -> None:
  """Builds layers that a conditional will call, each under its own variable name scope.

  Args:
    layers: layers whose variables do not exist yet.
    shapes: one input shape per layer.
  """
  for layer, shape in zip(layers, shapes):
    with tf.name_scope(layer.name):
      layer.build(shape)
    layer.built = True
