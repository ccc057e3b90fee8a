"""Deformable convolutions that compute their own offsets."""
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.ops import checks
from official_ext.ops import deformable_conv
from official_ext.ops import gradients


def check_offset_rate(rate: float) -> None:
  """Raises an ArgumentError if `offset_rate` is not in (0, 1]."""
  if not 0 < rate <= 1:
    raise checks.ArgumentError(
        'offset_rate', f'offset_rate is {rate}; it must be above 0 and at most 1.')


class OffsetConv2D(convolutions.Conv2D):
  """A convolution that starts at 0 and may learn more slowly than the layers around it."""

  def __init__(self, filters: int, kernel_size: Any, rate: float, **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the result.
      kernel_size: height and width of the kernel, or one number for both.
      rate: factor of the gradients of kernel and bias.  That of the input is not scaled, so that
        what lies before learns as it would, and a solver sees the true slope of its map.
      **kwargs: arguments of `convolutions.Conv2D`.
    """
    super().__init__(filters, kernel_size, kernel_initializer='zeros', **kwargs)
    self._rate = rate

  def slowed_weights(self) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the kernel and the bias, whose gradients are multiplied by `rate`."""
    kernel, bias = (gradients.scaled(tf.convert_to_tensor(variable), self._rate)
                    for variable in (self.kernel, self.bias))
    return kernel, bias

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    """Convolves `[batch, height, width, channels]`."""
    kernel, bias = self.slowed_weights()
    return tf.nn.bias_add(self.convolution_op(inputs, kernel), bias)


class WithOffsets(tf_keras.layers.Layer):
  """Base of layers that sample at offsets, which checkpoints of plain convolutions do not have.

  Attributes:
    offset: the convolution of the offsets and masks.
  """
  offset: OffsetConv2D

  def __init__(self, *args: Any, offset_rate: float = 1.0, **kwargs: Any):
    """Initializes the layer.

    Args:
      *args: arguments of the layer without offsets.
      offset_rate: factor in (0, 1] of the gradients of the convolution `offset`, that is, of its
        learning rate under gradient descent: at a high rate offsets may leave the map, where they
        have no gradient.
      **kwargs: arguments of the layer without offsets.

    Raises:
      ArgumentError: a rate outside (0, 1].
    """
    super().__init__(*args, **kwargs)
    check_offset_rate(offset_rate)
    self._offset_rate = offset_rate

  def offset_conv(self, filters: int, kernel_size: Any, **options: Any) -> OffsetConv2D:
    """Makes the convolution `offset`, which starts at 0, in the dtype of the variables.

    Args:
      filters: numbers of a position, two for each offset and one for each mask.
      kernel_size: height and width of the kernel, odd, or one number for both.
      **options: arguments of `convolutions.Conv2D`.
    """
    return OffsetConv2D(
        filters, kernel_size, self._offset_rate, symmetric_padding=True, name='offset',
        dtype=self.variable_dtype, **options)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'offset_rate': self._offset_rate}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class DeformableConv2D(WithOffsets, convolutions.Conv2D):
  """A convolution whose taps sample at offsets that another convolution computes from its input.

  Kernel and bias have the names, shapes and initial values of `convolutions.Conv2D`, so that
  weights of a plain convolution load.  The convolution `offset` starts at 0: then the layer is the
  plain convolution with symmetric padding, or half of it if `modulated`.  Offsets, positions and
  masks are float32 under mixed precision, in which bfloat16 would miss whole pixels.

  References: Jifeng Dai et al., Deformable Convolutional Networks,
  https://arxiv.org/abs/1703.06211; Xizhou Zhu et al., Deformable ConvNets v2,
  https://arxiv.org/abs/1811.11168 (`modulated`).
  """

  def __init__(self, filters: int, kernel_size: Any, modulated: bool = False,
               mask_scale: float = 1.0, offset_sets: int = 1, **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the result.
      kernel_size: height and width of the kernel, odd, or one number for both.
      modulated: whether every sample is also multiplied by a mask, a sigmoid times `mask_scale`.
      mask_scale: largest value of a mask; with 2 the layer starts as the plain convolution.
      offset_sets: number of groups of neighboring channels that have offsets of their own; it must
        divide the channels of the input.
      **kwargs: `offset_rate` of `WithOffsets`, and arguments of `convolutions.Conv2D`; `groups`
        are those of the kernel.

    Raises:
      ArgumentError: an even kernel, strides or dilation rates that differ by axis, no set of
        offsets, a mask that is never positive, or a wrong `offset_rate`.
    """
    super().__init__(filters, kernel_size, **{**kwargs, 'symmetric_padding': True})
    for argument in ('strides', 'dilation_rate'):
      first, second = getattr(self, argument)
      if first != second:
        raise checks.ArgumentError(
            argument, f'{argument} is {(first, second)}; both must be equal.')
    checks.check_range('offset_sets', offset_sets, 1)
    checks.check_positive('mask_scale', mask_scale)
    self._modulated, self._mask_scale, self._offset_sets = modulated, mask_scale, offset_sets
    self._taps = self.kernel_size[0] * self.kernel_size[1]
    self.offset = self.offset_conv(
        offset_sets * self._taps * (3 if modulated else 2), self.kernel_size,
        strides=self.strides, dilation_rate=self.dilation_rate,
        kernel_regularizer=self.kernel_regularizer)

  def build(self, input_shape: tf.TensorShape) -> None:
    channels = tf.TensorShape(input_shape)[-1]
    if channels % self._offset_sets:
      raise checks.ArgumentError(
          'offset_sets', f'offset_sets is {self._offset_sets}, which does not divide the '
          f'{channels} channels of the input.')
    super().build(input_shape)

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    """Convolves.

    Args:
      inputs: `[batch, height, width, channels]`.

    Returns:
      `[batch, ceil(height / stride), ceil(width / stride), filters]`.
    """
    offsets, masks = self.offset(inputs), None
    if self._modulated:
      offsets, logits = tf.split(
          offsets, [2 * self._offset_sets * self._taps, self._offset_sets * self._taps], axis=-1)
      masks = self._mask_scale * tf.sigmoid(logits)
    kernel = tf.cast(self.kernel, self.compute_dtype)
    outputs = deformable_conv.deformable_conv2d(
        inputs, kernel, offsets, masks, self.strides[0], self.dilation_rate[0])
    if not inputs.shape[0]:
      outputs = convolutions.with_conv_shape(outputs, inputs, self.strides, self.filters)
    if self.use_bias:
      outputs = tf.nn.bias_add(outputs, tf.cast(self.bias, self.compute_dtype))
    return self.activation(outputs) if self.activation else outputs

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'modulated': self._modulated,
            'mask_scale': self._mask_scale, 'offset_sets': self._offset_sets}
