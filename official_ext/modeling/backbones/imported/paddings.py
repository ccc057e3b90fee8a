"""Convolutions and pooling of stride 2 whose padding is not TensorFlow's `SAME`."""
from collections.abc import Sequence
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.ops import checks

PADDINGS = ('same', 'symmetric', 'end')


def pad(maps: tf.Tensor, kernel_size: int, padding: str) -> tf.Tensor:
  """Pads maps with zeros for a convolution of stride 2 without padding of its own.

  Args:
    maps: `[batch, height, width, channels]`.
    kernel_size: side of the kernel, odd.
    padding: one of `PADDINGS`.

  Returns:
    The padded maps.  `same` and `symmetric` give results of ceil(size / 2), `end` of
    floor(size / 2).
  """
  checks.check_one_of('padding', padding, PADDINGS)
  total = kernel_size - 1
  if padding == 'symmetric':
    amounts = [[total // 2, total // 2]] * 2
  elif padding == 'end':
    amounts = [[total // 2 - 1, total // 2]] * 2
  else:
    # An even size needs one pixel less, which is left out before the map.
    sizes = tf.shape(maps)[1:3]
    amounts = [[total // 2 - (1 - sizes[axis] % 2), total // 2] for axis in (0, 1)]
  return tf.pad(maps, [[0, 0], *amounts, [0, 0]])


class PaddedConv2D(tf_keras.layers.Conv2D):
  """A convolution of stride 2 with a given padding, and an affine function before it."""

  def __init__(self, *args: Any, pads: str = 'symmetric', scale: Sequence[float] | None = None,
               offset: Sequence[float] | None = None, **kwargs: Any):
    """Initializes the layer.

    Args:
      *args: of `Conv2D`.
      pads: one of `PADDINGS`.
      scale: factor of each channel of the input; None: the input is taken as it is.
      offset: what is added after that; the padding is then still zero.
      **kwargs: of `Conv2D`.
    """
    super().__init__(*args, **kwargs)
    self._pads, self._scale, self._offset = pads, scale, offset

  def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    if self._scale is not None:
      inputs = inputs * tf.constant(self._scale, inputs.dtype) + tf.constant(
          self._offset, inputs.dtype)
    return tf.nn.conv2d(
        pad(inputs, self.kernel_size[0], self._pads), kernel, self.strides, 'VALID')

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'pads': self._pads, 'scale': self._scale,
            'offset': self._offset}


class GroupedConv2D(PaddedConv2D):
  """A convolution in groups of neighboring channels, of stride 1 or 2.

  Keras compiles convolutions with groups by XLA, which keeps exports from other engines.
  TensorFlow's own convolution takes the groups from the shape of the kernel; on a CPU it has
  gradients in float32.
  """

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    return self.convolution_op(inputs, tf.convert_to_tensor(self.kernel))


class _Padded:
  """A layer of stride 2 with the option `pads`, which `call` reads."""

  def __init__(self, *args: Any, pads: str = 'symmetric', **kwargs: Any):
    """Initializes the layer.

    Args:
      *args: of the layer that is padded.
      pads: one of `PADDINGS`.
      **kwargs: of the layer that is padded.
    """
    super().__init__(*args, **kwargs)
    self._pads = pads

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'pads': self._pads}  # type: ignore[misc]


class PaddedDepthwiseConv2D(_Padded, tf_keras.layers.DepthwiseConv2D):
  """A depthwise convolution of stride 2 with a given padding, without bias and activation."""

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    return tf.nn.depthwise_conv2d(
        pad(inputs, self.kernel_size[0], self._pads), self.depthwise_kernel,
        [1, *self.strides, 1], 'VALID')


class PaddedMaxPool2D(_Padded, tf_keras.layers.MaxPool2D):
  """Maximum pooling of stride 2 that pads with zeros; its input has no negative values."""

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    return tf.nn.max_pool2d(
        pad(inputs, self.pool_size[0], self._pads), self.pool_size, self.strides, 'VALID')


def changed(layer: tf_keras.layers.Layer, cls: Any | None = None, **options: Any
            ) -> tf_keras.layers.Layer:
  """Returns a new layer with the options of another one.

  Args:
    layer: a layer that is not built.
    cls: class of the new layer; None: that of `layer`.
    **options: the options that differ.
  """
  return (cls or type(layer)).from_config({**layer.get_config(), **options})
