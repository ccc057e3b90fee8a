"""Deformable convolution: every tap of the kernel samples the map at an offset of its own.

References: Jifeng Dai et al., Deformable Convolutional Networks, https://arxiv.org/abs/1703.06211;
Xizhou Zhu et al., Deformable ConvNets v2, https://arxiv.org/abs/1811.11168, with masks.
"""
from collections.abc import Sequence

import numpy as np
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

  Samples are bilinear; a pixel outside the map counts 0.  All taps are sampled by one operation and
  multiplied by another: training takes less time than with one tap at a time, and the graph has
  a sixth of the nodes, which converters for other engines search again and again.  The samples
  take the memory of one map for each tap.

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
    `[batch, ceil(height / stride), ceil(width / stride), filters]`, of the features' dtype.

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
  shifts = [[dilation * (row - rows // 2), dilation * (column - columns // 2)]
            for row, column in np.ndindex(rows, columns)]
  start = tf.cast(grid[:, :, None] + np.array(shifts, np.int32), offsets.dtype)
  samples = [_sample(*parts, start) for parts in zip(
      tf.split(features, sets, axis=-1), tf.split(offsets, sets, axis=-1),
      [None] * sets if masks is None else tf.split(masks, sets, axis=-1))]
  return _multiply(tf.concat(samples, axis=-1) if sets > 1 else samples[0], kernel, size)


def _sample(features: tf.Tensor, offsets: tf.Tensor, masks: tf.Tensor | None,
            start: tf.Tensor) -> tf.Tensor:
  """Returns the samples of all taps for one set of channels, times their masks.

  Args:
    features: `[batch, height, width, channels]`.
    offsets: `[batch, out_height, out_width, 2 * taps]`.
    masks: None, or `[batch, out_height, out_width, taps]`.
    start: `[out_height, out_width, taps, 2]`, where the taps lie without offsets.

  Returns:
    `[batch, out_height, out_width * taps, channels]`, the taps of a position beside each other.
  """
  taps = offsets.shape[3] // 2
  height, width = (offsets.shape[axis] or tf.shape(offsets)[axis] for axis in (1, 2))
  positions = start + tf.reshape(offsets, [-1, height, width, taps, 2])
  samples = sampling.sample_bilinear(
      features, tf.reshape(positions, [-1, height, width * taps, 2]), one_sided=True)
  if masks is None:
    return samples
  return samples * tf.cast(tf.reshape(masks, [-1, height, width * taps, 1]), samples.dtype)


def _multiply(samples: tf.Tensor, kernel: tf.Tensor, size: Sequence[int | tf.Tensor]) -> tf.Tensor:
  """Multiplies the samples of each position by the whole kernel.

  Args:
    samples: `[batch, out_height, out_width * taps, channels]`.
    kernel: `[rows, columns, channels / groups, filters]`.
    size: `out_height` and `out_width`.

  Returns:
    `[batch, out_height, out_width, filters]`.
  """
  rows, columns, depth, filters = kernel.shape
  taps, channels = rows * columns, samples.shape[3]
  groups = channels // depth
  if groups == 1:
    return tf.nn.conv2d(tf.reshape(samples, [-1, *size, taps * channels]),
                        tf.reshape(kernel, [1, 1, taps * channels, filters]), 1, 'VALID')
  # TensorFlow's kernel of grouped convolutions has no gradient in float64 on a CPU.
  by_group = tf.transpose(tf.reshape(samples, [-1, taps, groups, depth]), [2, 0, 1, 3])
  kernels = tf.transpose(tf.reshape(kernel, [taps * depth, groups, filters // groups]), [1, 0, 2])
  products = tf.matmul(tf.reshape(by_group, [groups, -1, taps * depth]), kernels)
  return tf.reshape(tf.transpose(products, [1, 0, 2]), [-1, *size, filters])
