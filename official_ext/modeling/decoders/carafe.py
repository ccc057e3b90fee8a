"""The CARAFE FPN: a top-down path that upsamples by kernels computed from the content.

Reference: Jiaqi Wang et al., CARAFE: Content-Aware ReAssembly of FEatures,
https://arxiv.org/abs/1905.02188.
"""
import dataclasses
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.decoders import pyramid
from official_ext.modeling.layers import convolutions
from official_ext.ops import checks
from official_ext.ops import reassembly
from official_ext.ops import sampling

SCALE = 2
UPSAMPLING = ('carafe', 'nearest', 'bilinear', 'deconv', 'pixel_shuffle')


@dataclasses.dataclass
class CARAFEConfig(pyramid.PyramidConfig):
  """Options of `CARAFE`; see its arguments."""
  upsample: str = 'carafe'
  kernel_size: int = 5
  encoder_kernel_size: int = 3
  compressed_filters: int = 64
  groups: int = 1
  symmetric_padding: bool = True


@tf_keras.utils.register_keras_serializable(package='official_ext')
class ContentAwareUpsampling(convolutions.ConvBlock):
  """Doubles height and width; each pixel of the result has weights of its own (eqs. 1 to 5).

      logits = encoder(compressor(x)), a channel for each group, tap and one of four subpixels
      result = weighted sums of x around each pixel, weights = softmax(logits) over the taps

  Groups of neighboring channels share the weights.  It starts as a box blur, because the encoder
  starts near 0.  The softmax is float32 under mixed precision.

  Reference: see the module.
  """

  def __init__(self, kernel_size: int = 5, encoder_kernel_size: int = 3,
               compressed_filters: int = 64, groups: int = 1, **kwargs):
    """Initializes the layer.

    Args:
      kernel_size: height and width of the neighborhoods that are summed, odd.
      encoder_kernel_size: height and width of the encoder's kernel, odd.
      compressed_filters: channels of the compressor's result.
      groups: number of groups of channels, which must divide the channels of the input.
      **kwargs: arguments of `ConvBlock`.

    Raises:
      ArgumentError: an even size of a kernel, no group, or no channel.
    """
    super().__init__(**kwargs)
    checks.check_positive('groups', groups)
    checks.check_positive('compressed_filters', compressed_filters)
    for argument, value in (('kernel_size', kernel_size),
                            ('encoder_kernel_size', encoder_kernel_size)):
      if value < 1 or value % 2 == 0:
        raise checks.ArgumentError(
            argument, f'{argument} is {value}; allowed are odd numbers, because a kernel must '
            'have a center.')
    self._kernel_size, self._encoder_kernel_size = kernel_size, encoder_kernel_size
    self._compressed_filters, self._groups = compressed_filters, groups
    self._compressor = self.conv(1, 'compressor', compressed_filters)
    self._encoder = self.conv(
        encoder_kernel_size, 'encoder', groups * kernel_size**2 * SCALE**2,
        kernel_initializer=tf_keras.initializers.RandomNormal(stddev=0.001))

  def kernels(self, features: tf.Tensor) -> tf.Tensor:
    """Returns the weights of the sums.

    Args:
      features: `[batch, height, width, channels]`.

    Returns:
      `[batch, height, width, groups * 4, kernel_size**2]`, groups outside, subpixels and taps in
      row-major order, whose sums over the last axis are 1; float32, or float64 for float64
      features.
    """
    logits = self._encoder(self._compressor(features))
    height, width = (logits.shape[axis] or tf.shape(logits)[axis] for axis in (1, 2))
    taps, phases = self._kernel_size**2, SCALE**2
    # Few engines transpose more than five axes.
    logits = tf.reshape(logits, [-1, width, self._groups, taps, phases])
    logits = tf.reshape(tf.transpose(logits, [0, 1, 2, 4, 3]),
                        [-1, height, width, self._groups * phases, taps])
    exact = tf.float64 if logits.dtype == tf.float64 else tf.float32
    return tf.nn.softmax(tf.cast(logits, exact))

  def call(self, features: tf.Tensor) -> tf.Tensor:
    """Upsamples.

    Args:
      features: `[batch, height, width, channels]`.

    Returns:
      `[batch, 2 height, 2 width, channels]`.
    """
    kernels = tf.cast(self.kernels(features), features.dtype)
    parts = zip(tf.split(features, self._groups, axis=-1),
                tf.split(kernels, self._groups, axis=3))
    return tf.concat(
        [reassembly.reassemble(part, weights, SCALE) for part, weights in parts], axis=-1)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'kernel_size': self._kernel_size,
            'encoder_kernel_size': self._encoder_kernel_size,
            'compressed_filters': self._compressed_filters, 'groups': self._groups}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class TransposedUpsampling(convolutions.ConvBlock):
  """Doubles height and width by a 3x3 transposed convolution.

  Pixel i of the input lies on pixel 2 i of the result.
  """

  def __init__(self, filters: int, **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the result.
      **kwargs: arguments of `ConvBlock`.
    """
    super().__init__(**kwargs)
    self._filters = filters
    self._conv = self.conv(3, 'conv', filters, cls=tf_keras.layers.Conv2DTranspose,
                           strides=SCALE, padding='valid')

  def call(self, features: tf.Tensor) -> tf.Tensor:
    """Maps `[batch, height, width, channels]` to `[batch, 2 height, 2 width, filters]`."""
    # Without padding there is a row above and a column to the left of the first pixel.
    return self._conv(features)[:, 1:, 1:]

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'filters': self._filters}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class PixelShuffle(convolutions.ConvBlock):
  """Doubles height and width by a 3x3 convolution with a channel for each of four subpixels.

  Subpixels of a channel are neighboring channels of the convolution's result, in row-major order.

  Reference: Wenzhe Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient
  Sub-Pixel Convolutional Neural Network, https://arxiv.org/abs/1609.05158.
  """

  def __init__(self, filters: int, **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the result.
      **kwargs: arguments of `ConvBlock`.
    """
    super().__init__(**kwargs)
    self._filters = filters
    self._conv = self.conv(3, 'conv', filters * SCALE**2)

  def call(self, features: tf.Tensor) -> tf.Tensor:
    """Maps `[batch, height, width, channels]` to `[batch, 2 height, 2 width, filters]`."""
    height, width = (features.shape[axis] or tf.shape(features)[axis] for axis in (1, 2))
    # Few engines transpose more than five axes, so batch and height are one.
    pixels = tf.reshape(self._conv(features), [-1, width, self._filters, SCALE, SCALE])
    return tf.reshape(tf.transpose(pixels, [0, 3, 1, 4, 2]),
                      [-1, SCALE * height, SCALE * width, self._filters])

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'filters': self._filters}


@components.register_decoder('carafe', CARAFEConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class CARAFE(pyramid.PyramidDecoder):
  """An FPN whose top-down path upsamples by `ContentAwareUpsampling`, one for each step.

  To compare with, the path may upsample in other ways (`upsample`).  Where a level has an odd
  height or width, the last row or column of a map that a layer doubled is cut off.

  Reference: see the module.

  Differs: coarser levels than the backbone's are made from the result, as in the other necks, not
  upsampled into the top-down path, as mmdetection does.  Batch norm on every level of the result
  by default, as in Model Garden's FPN; `norm: none` is the paper's form.
  """

  def __init__(self, upsample: str = 'carafe', kernel_size: int = 5, encoder_kernel_size: int = 3,
               compressed_filters: int = 64, groups: int = 1, symmetric_padding: bool = True,
               **kwargs):
    """Initializes the decoder.

    Args:
      upsample: how the top-down path doubles a map: `carafe`; `nearest`, as the plain FPN;
        `bilinear`, with aligned outer edges, as the toolboxes do; `deconv`, a 3x3 transposed
        convolution; or `pixel_shuffle`, a 3x3 convolution to subpixels.  The arguments below are
        those of `carafe` alone.
      kernel_size: see `ContentAwareUpsampling`.
      encoder_kernel_size: see `ContentAwareUpsampling`.
      compressed_filters: see `ContentAwareUpsampling`.
      groups: see `ContentAwareUpsampling`; must divide `num_filters`.
      symmetric_padding: see `PyramidDecoder`.
      **kwargs: arguments of `PyramidDecoder`.

    Raises:
      ArgumentError: an unknown way, an even size of a kernel, or groups that do not divide
        `num_filters`.
    """
    super().__init__(symmetric_padding=symmetric_padding, **kwargs)
    checks.check_one_of('upsample', upsample, UPSAMPLING)
    if groups < 1 or self._num_filters % groups:
      raise checks.ArgumentError(
          'groups', f'groups is {groups}; it must divide num_filters, {self._num_filters}.')
    self._upsample = upsample
    self._upsampling: dict[str, Any] = {
        'kernel_size': kernel_size, 'encoder_kernel_size': encoder_kernel_size,
        'compressed_filters': compressed_filters, 'groups': groups}
    self._laterals = {level: self.conv(1, f'lateral_{level}') for level in self.backbone_levels}
    self._steps = {level: self._make_step(level) for level in self.backbone_levels[1:]}

  def _make_step(self, level: str) -> convolutions.ConvBlock | None:
    """Returns the layer that doubles a level; None: it has no weights."""
    common = {
        'name': f'upsample_{level}', 'dtype': self.dtype_policy,
        'kernel_initializer': tf_keras.initializers.serialize(self._kernel_initializer),
        'kernel_regularizer': self._kernel_regularizer, 'bias_regularizer': self._bias_regularizer}
    if self._upsample == 'carafe':
      return ContentAwareUpsampling(**self._upsampling, **common)
    if self._upsample == 'deconv':
      return TransposedUpsampling(self._num_filters, **common)
    if self._upsample == 'pixel_shuffle':
      return PixelShuffle(self._num_filters, **common)
    return None

  def _upsampled(self, step: convolutions.ConvBlock | None, source: tf.Tensor,
                 target: tf.Tensor) -> tf.Tensor:
    if step is not None:
      return _cropped(step(source), source, target)
    if self._upsample == 'nearest':
      return sampling.resize_nearest(source, target)
    return sampling.resize_bilinear(source, target, align_corners=False)

  def build_pyramid(self, inputs: pyramid.Features, training: bool | None) -> pyramid.Features:
    merged = {level: lateral(inputs[level]) for level, lateral in self._laterals.items()}
    for level, step in reversed(self._steps.items()):
      finer = str(int(level) - 1)
      merged[finer] += self._upsampled(step, merged[level], merged[finer])
    return merged

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'upsample': self._upsample, **self._upsampling}


def _cropped(upsampled: tf.Tensor, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Cuts an upsampled map to the size of the next finer level, or resizes it to another size.

  Args:
    upsampled: `[batch, 2 height, 2 width, channels]`.
    source: the map before, `[batch, height, width, channels]`.
    target: a map in the size of the result.

  Returns:
    `[batch, target_height, target_width, channels]`.
  """
  ends = []
  for axis in (1, 2):
    size, wanted = (each.shape[axis] or tf.shape(each)[axis] for each in (source, target))
    is_next = (wanted + 1) // 2 == size
    ends.append(tf.where(is_next, wanted, 2 * size) if tf.is_tensor(is_next) else
                wanted if is_next else 2 * size)
  return sampling.resize_bilinear(upsampled[:, :ends[0], :ends[1]], target)
