"""Deformable kernels of an implicit pyramid, which eq. 8 allows for W_ij."""
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.modeling.decoders.ifpn import weight_norm
from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import deformable
from official_ext.ops import deformable_conv

# With it the masks start at 1, and the layer as the plain convolution.
_MASK_SCALE = 2.0


@tf_keras.utils.register_keras_serializable(package='official_ext')
class DeformableWeightNormConv2D(deformable.WithOffsets, weight_norm.WeightNormConv2D):
  """`WeightNormConv2D` that samples at offsets, and multiplies the samples by masks (version 2).

  The convolution of offsets and masks runs at every evaluation, on the features of that
  evaluation; only the main kernel is normalized.  It starts at 0, and the layer as the plain one.

  Reference: Xizhou Zhu et al., Deformable ConvNets v2, https://arxiv.org/abs/1811.11168.
  """

  def build(self, input_shape: tf.TensorShape) -> None:
    taps = self._kernel_size**2
    self.offset = self.offset_conv(3 * taps, self._kernel_size, strides=self._strides,
                                   kernel_regularizer=self._kernel_regularizer,
                                   bias_regularizer=self._bias_regularizer)
    convolutions.build_in_scope([self.offset], [input_shape])
    super().build(input_shape)

  def prepare(self, dtype: tf.DType) -> Any:
    """Returns kernels and biases: the normalized ones in this dtype, and those of the offsets."""
    return super().prepare(dtype), self.offset.slowed_weights()

  def run(self, weights: Any, features: tf.Tensor) -> tf.Tensor:
    """Convolves features of the weights' dtype; offsets are in that of the variables."""
    (kernel, bias), (offset_kernel, offset_bias) = weights
    taps = self._kernel_size**2
    raw = weight_norm.padded_conv2d(
        tf.cast(features, offset_kernel.dtype), offset_kernel, self._strides) + offset_bias
    offsets, logits = tf.split(raw, [2 * taps, taps], axis=-1)
    outputs = deformable_conv.deformable_conv2d(
        features, kernel, offsets, _MASK_SCALE * tf.sigmoid(logits), self._strides)
    if not features.shape[0]:
      outputs = convolutions.with_conv_shape(
          outputs, features, (self._strides, self._strides), self._filters)
    return outputs if bias is None else outputs + bias

  def multiply_adds(self, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the cost of one image, that of the offsets included, and the size of the result."""
    cost, size = super().multiply_adds(size)
    height, width, channels, filters = self.offset.kernel.shape
    return (cost + tf.cast(tf.reduce_prod(size), tf.float64)
            * float(height * width * channels * filters), size)
