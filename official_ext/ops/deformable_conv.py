"""Deformable convolution: every tap of the kernel samples the map at an offset of its own.

References: Jifeng Dai et al., Deformable Convolutional Networks, https://arxiv.org/abs/1703.06211;
Xizhou Zhu et al., Deformable ConvNets v2, https://arxiv.org/abs/1811.11168, with masks.
"""
import tensorflow as tf

from official_ext.ops import checks
from official_ext.ops import sampling


def deformable_conv2d(features: tf.Tensor, kernel: tf.Tensor, offsets: tf.Tensor,
                      masks: tf.Tensor | None = None, stride: int = 1,
                      dilation: int = 1) -> tf.Tensor:
  """Convolves samples at offsets, with half a kernel of zeros on every side.

      out[i, j] = sum over taps (a, b) of kernel[a, b] masks[i, j, a, b] sample(
          stride i + dilation (a - r) + dy[i, j, a, b],
          stride j + dilation (b - r) + dx[i, j, a, b])

  Samples are bilinear; a pixel outside the map counts 0.  One tap at a time is sampled and
  multiplied, so that inference needs the memory of one map more.

  Args:
    features: `[batch, height, width, channels]`.
    kernel: `[odd size, odd size, channels / groups, filters]`, of the features' dtype.
    offsets: `[batch, ceil(height / stride), ceil(width / stride), sets * 2 * taps]`, float32 or
      float64: for each set, for each tap in row-major order, rows and columns in pixels of the
      features.  A set is that of neighboring channels, `channels / sets` of them.
    masks: None (all 1), or `[..., sets * taps]` of the same positions.
    stride: distance of neighboring positions, along both axes.
    dilation: distance of neighboring taps.

  Returns:
    `[batch, ceil(height / stride), ceil(width / stride), filters]`, of the features' dtype;
    in half precision taps are summed in float32.

  Raises:
    ArgumentError: the offsets or the masks do not belong to the kernel and the channels.
  """
  rows, columns = kernel.shape[:2]
  channels, taps = features.shape[3], rows * columns
  sets = offsets.shape[3] // (2 * taps)
  if sets < 1 or offsets.shape[3] % (2 * taps) or channels % sets:
    raise checks.ArgumentError(
        'offsets', f'offsets has {offsets.shape[3]} channels; allowed are {2 * taps}, two for each '
        f'tap of the kernel, times a number that divides the {channels} channels of the features.')
  if masks is not None and masks.shape[3] != sets * taps:
    raise checks.ArgumentError(
        'masks', f'masks has {masks.shape[3]} channels; with these offsets it must have '
        f'{sets * taps}.')
  size = [offsets.shape[axis] or tf.shape(offsets)[axis] for axis in (1, 2)]
  grid = tf.stack(tf.meshgrid(*(stride * tf.range(end) for end in size), indexing='ij'), axis=-1)
  sums = []
  for tap in range(taps):
    row, column = divmod(tap, columns)
    start = grid + [dilation * (row - rows // 2), dilation * (column - columns // 2)]
    sampled = _sample_tap(features, tf.cast(start, offsets.dtype), offsets, masks, tap, taps)
    sums.append(_multiply(sampled, kernel[row:row + 1, column:column + 1]))
  wide = features.dtype if features.dtype == tf.float64 else tf.float32
  return tf.cast(tf.add_n([tf.cast(each, wide) for each in sums]), features.dtype)


def _multiply(samples: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  """Convolves with a 1x1 kernel, in groups of channels if the kernel has fewer than the samples."""
  depth, filters = kernel.shape[2:]
  groups = samples.shape[3] // depth
  if groups == 1:
    return tf.nn.conv2d(samples, kernel, strides=1, padding='VALID')
  # TensorFlow's kernel of grouped convolutions has no gradient in float64 on a CPU.
  known = [samples.shape[axis] or tf.shape(samples)[axis] for axis in (1, 2)]
  grouped = tf.reshape(samples, [-1, *known, groups, depth])
  products = tf.einsum(
      'nhwgc,cgo->nhwgo', grouped, tf.reshape(kernel, [depth, groups, filters // groups]))
  return tf.reshape(products, [-1, *known, filters])


def _sample_tap(features: tf.Tensor, start: tf.Tensor, offsets: tf.Tensor,
                masks: tf.Tensor | None, tap: int, taps: int) -> tf.Tensor:
  """Returns the samples of one tap, times its masks.

  Args:
    features: `[batch, height, width, channels]`.
    start: `[out_height, out_width, 2]`, where the tap lies without offsets.
    offsets: as of `deformable_conv2d`.
    masks: as of `deformable_conv2d`.
    tap: number of the tap.
    taps: number of all taps.

  Returns:
    `[batch, out_height, out_width, channels]`.
  """
  sets = offsets.shape[3] // (2 * taps)
  parts = []
  for index, part in enumerate(tf.split(features, sets, axis=-1)):
    first = 2 * (index * taps + tap)
    sampled = sampling.sample_bilinear(
        part, start + offsets[..., first:first + 2], one_sided=True)
    if masks is not None:
      mask = index * taps + tap
      sampled *= tf.cast(masks[..., mask:mask + 1], sampled.dtype)
    parts.append(sampled)
  return tf.concat(parts, axis=-1)
