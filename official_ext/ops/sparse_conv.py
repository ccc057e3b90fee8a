"""Convolutions that are computed at the active positions of a map only, image by image.

The mode `skip` lists the active positions: it gathers their neighborhoods, computes the
convolution as one matrix product, and keeps a whole residual block in the list before it
scatters the result into a map.  Where so many positions are active that the list would be
slower, it computes all positions instead.  The mode `mask` always computes all positions and
returns the same; it is for XLA and TPU, as is `tiled_conv`, which skips with static shapes.

Values at skipped positions are never used; they may be NaN.
"""
from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import tensorflow as tf

from official_ext.ops import checks
from official_ext.ops import group_norm

MODES = ('skip', 'mask')
# The share of multiply-adds above which the list is slower than the full convolutions, measured
# by benchmarks/sparse_conv.py.  For a single image the list is always faster, because TensorFlow
# 2.20 runs the full convolutions of a single image by slow code.
BREAK_EVEN = 0.7


class ResidualWeights(NamedTuple):
  """The weights of a residual block of two convolutions and two group norms.

  Attributes:
    kernel1: `[3, 3, channels, channels]`.
    gamma1: `[channels]`, scale of the norm after the first convolution.
    beta1: `[channels]`, offset of this norm.
    kernel2: `[3, 3, channels, channels]`.
    gamma2: `[channels]`, scale of the norm after the second convolution.
    beta2: `[channels]`, offset of this norm.
  """
  kernel1: tf.Tensor
  gamma1: tf.Tensor
  beta1: tf.Tensor
  kernel2: tf.Tensor
  gamma2: tf.Tensor
  beta2: tf.Tensor


def dilate(mask: tf.Tensor) -> tf.Tensor:
  """Returns the positions that have an active position in their 3x3 neighborhood.

  Args:
    mask: boolean `[batch, height, width, 1]`.

  Returns:
    The same shape and dtype.
  """
  return tf.nn.max_pool2d(tf.cast(mask, tf.float32), 3, 1, 'SAME') > 0


def active_positions(gate: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns where a residual block computes its first and its second convolution.

  Args:
    gate: `[batch, height, width, 1]`, not negative.

  Returns:
    Two boolean masks of the shape of `gate`: the 3x3 neighborhoods of the positions where the
    gate is above 0, and these positions.
  """
  mask = tf.stop_gradient(gate) > 0
  return dilate(mask), mask


def residual_block_multiply_adds(gate: tf.Tensor, channels: int) -> tf.Tensor:
  """Returns the multiply-adds of `residual_block` for each image when it skips.

  Args:
    gate: `[batch, height, width, 1]`, not negative.
    channels: number of channels of the map.

  Returns:
    float64 `[batch]`, exact.
  """
  positions = sum(
      tf.math.count_nonzero(mask, axis=[1, 2, 3], dtype=tf.int32)
      for mask in active_positions(gate))
  return tf.constant(9 * channels**2, tf.float64) * tf.cast(positions, tf.float64)


def sparse_conv2d(x: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor, mode: str = 'skip',
                  break_even: float | None = None) -> tf.Tensor:
  """Convolves with stride 1 at the active positions; the others are 0.

  Args:
    x: `[batch, height, width, channels]`.
    kernel: `[rows, columns, channels, filters]`, rows and columns odd, of the dtype of `x`.
    mask: boolean `[batch, height, width, 1]`, the active positions of each image.
    mode: `skip` computes active positions, `mask` all of them.
    break_even: share of active positions above which `skip` computes all of them; None:
      `BREAK_EVEN` for several images, and 1 for a single image.

  Returns:
    `[batch, height, width, filters]`, with zero padding at the borders of the map.

  Raises:
    ArgumentError: unknown mode.
  """
  checks.check_one_of('mode', mode, MODES)

  def compute_all():
    return _where(mask, tf.nn.conv2d(x, kernel, 1, 'SAME'))

  def compute_listed():
    pixels = _list_pixels(mask, kernel.shape[:2])
    return _put_back(_convolve(_table_from_map(x, kernel.shape[:2]), pixels, kernel), pixels)

  if mode == 'mask':
    return compute_all()
  return _compute_cheaper(compute_listed, compute_all, [mask], break_even)


def residual_block(x: tf.Tensor, gate: tf.Tensor, weights: ResidualWeights, num_groups: int,
                   mode: str = 'skip', break_even: float | None = None) -> tf.Tensor:
  """Computes the gated branch of a dynamic residual block, with group norms (GN).

      gate * GN(conv(ReLU(GN(conv(x)))))

  The second convolution and its norm are computed at the positions where the gate is above 0,
  the first ones at the 3x3 neighborhoods of these positions.  Each norm takes its statistics,
  per image and group, from the positions of its convolution.

  Gradients are those of the full convolutions with these statistics; the set of active
  positions has no gradient.

  Reference: Lin Song et al., Fine-Grained Dynamic Head for Object Detection,
  https://arxiv.org/abs/2012.03519, section 2.2.3.

  Differs: in the reference's code norms take their statistics from all positions in training,
  and from the active positions at inference.

  Args:
    x: `[batch, height, width, channels]`.
    gate: float32 `[batch, height, width, 1]`, not negative, 0 where nothing is computed.
    weights: the weights; kernels of the dtype of `x`.
    num_groups: number of groups of the norms, a divisor of the number of channels.
    mode: `skip` computes active positions, `mask` all of them, for XLA and TPU.
    break_even: share of the block's multiply-adds in the whole batch above which `skip`
      computes all positions; None: as in `sparse_conv2d`.

  Returns:
    The shape and dtype of `x`; 0 where the gate is 0.

  Raises:
    ArgumentError: unknown mode.
    ValueError: `num_groups` does not divide the channels.
  """
  checks.check_one_of('mode', mode, MODES)
  masks = active_positions(gate)
  if mode == 'mask':
    return _full_block(x, gate, weights, [
        functools.partial(group_norm.group_norm, num_groups=num_groups, mask=mask)
        for mask in masks])
  pixels = [_list_pixels(mask, (3, 3)) for mask in masks]

  def compute_all():
    return _where(masks[1], _full_block(x, gate, weights, [
        functools.partial(group_norm.group_norm_at, num_groups=num_groups, index=listed.index)
        for listed in pixels]))

  def compute_listed():
    return _listed_block(x, gate, weights, pixels, num_groups)

  return _compute_cheaper(compute_listed, compute_all, masks, break_even)


def _compute_cheaper(compute_listed: Callable[[], tf.Tensor], compute_all: Callable[[], tf.Tensor],
                     masks: Sequence[tf.Tensor], break_even: float | None) -> tf.Tensor:
  """Computes all positions if the share of active ones, over all masks, is above `break_even`."""
  if break_even is None:
    break_even = tf.where(tf.shape(masks[0])[0] > 1, BREAK_EVEN, 1.0)
  # Empty masks need no branch of their own: a matrix product of no rows is right, unlike a
  # convolution of no images.
  result = tf.cond(
      tf.reduce_mean(tf.cast(masks, tf.float32)) > break_even, compute_all, compute_listed)
  # `_put_back` knows no sizes.  An unknown size beside a size of 1 could be broadcast, so that a
  # sum with a map of one position would be of unknown size too.
  result.set_shape([*masks[0].shape[:3], None])
  return result


def _where(mask: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
  return tf.where(mask, value, tf.zeros([], value.dtype))


def _full_block(x: tf.Tensor, gate: tf.Tensor, weights: ResidualWeights,
                norms: Sequence[Callable[..., tf.Tensor]]) -> tf.Tensor:
  """Computes the block at all positions; each norm knows the positions of its statistics."""
  hidden = tf.nn.conv2d(x, weights.kernel1, 1, 'SAME')
  hidden = tf.nn.relu(norms[0](hidden, gamma=weights.gamma1, beta=weights.beta1))
  hidden = tf.nn.conv2d(hidden, weights.kernel2, 1, 'SAME')
  return norms[1](hidden, gamma=weights.gamma2, beta=weights.beta2) * tf.cast(gate, x.dtype)


def _listed_block(x: tf.Tensor, gate: tf.Tensor, weights: ResidualWeights,
                  pixels: Sequence['_Pixels'], num_groups: int) -> tf.Tensor:
  """Computes the block at the listed positions of each convolution."""
  first, second = pixels
  batch = tf.shape(x)[0]
  rows = _convolve(_table_from_map(x, (3, 3)), first, weights.kernel1)
  rows = tf.nn.relu(group_norm.group_norm_rows(
      rows, first.images, batch, weights.gamma1, weights.beta1, num_groups))
  rows = _convolve(*_table_from_rows(rows, first, second), weights.kernel2)
  rows = group_norm.group_norm_rows(
      rows, second.images, batch, weights.gamma2, weights.beta2, num_groups)
  rows *= tf.cast(tf.gather_nd(gate, second.index), x.dtype)
  return _put_back(rows, second)


class _Pixels(NamedTuple):
  """The active positions of a batch of maps, image by image.

  Attributes:
    index: int32 `[pixels, 3]`: image, row and column.
    images: int32 `[pixels]`, the first column of `index`.
    taps: int32 `[pixels, taps]`, where the neighborhood's values stand in a table of values, see
      `_convolve`.
    shape: int32 `[3]`: batch, height and width.
    padded_size: int32 scalar, the number of positions of the padded maps.
  """
  index: tf.Tensor
  images: tf.Tensor
  taps: tf.Tensor
  shape: tf.Tensor
  padded_size: tf.Tensor


def _list_pixels(mask: tf.Tensor, kernel_size: Sequence[int]) -> _Pixels:
  """Returns the active positions, with taps that are positions of the flattened padded map."""
  rows, columns = kernel_size
  index = tf.cast(tf.where(mask[..., 0]), tf.int32)
  shape = tf.shape(mask)[:3]
  height, width = shape[1] + rows - 1, shape[2] + columns - 1
  corner = (index[:, 0] * height + index[:, 1]) * width + index[:, 2]
  offsets = tf.reshape(tf.range(rows)[:, None] * width + tf.range(columns), [1, -1])
  return _Pixels(index, index[:, 0], corner[:, None] + offsets, shape, shape[0] * height * width)


def _table_from_map(x: tf.Tensor, kernel_size: Sequence[int]) -> tf.Tensor:
  """Returns the map with a border of zeros, flattened: `[positions, channels]`."""
  rows, columns = (size // 2 for size in kernel_size)
  padded = tf.pad(x, [[0, 0], [rows, rows], [columns, columns], [0, 0]])
  return tf.reshape(padded, [-1, x.shape[-1]])


def _table_from_rows(rows: tf.Tensor, source: _Pixels, target: _Pixels
                     ) -> tuple[tf.Tensor, _Pixels]:
  """Returns a table of the rows of `source` after a row of zeros, and `target` with taps in it.

  Args:
    rows: `[pixels of source, channels]`.
    source: the positions of the rows.
    target: positions whose taps are those of the flattened padded map.
  """
  center = source.taps.shape[1] // 2
  places = tf.scatter_nd(
      source.taps[:, center, None], tf.range(1, tf.shape(rows)[0] + 1), [source.padded_size])
  return tf.pad(rows, [[1, 0], [0, 0]]), target._replace(taps=tf.gather(places, target.taps))


def _convolve(table: tf.Tensor, pixels: _Pixels, kernel: tf.Tensor) -> tf.Tensor:
  """Convolves at listed positions.

  Args:
    table: values `[places, channels]`, into which the taps point.
    pixels: the positions.
    kernel: `[rows, columns, channels, filters]`.

  Returns:
    `[pixels, filters]`.
  """
  # tf.gather returns the same, but its gradient, tf.IndexedSlices summed by segments, is slower.
  columns = tf.gather_nd(table, pixels.taps[..., None])
  kernel = tf.reshape(kernel, [-1, kernel.shape[-1]])
  return tf.matmul(tf.reshape(columns, [-1, kernel.shape[0]]), kernel)


def _put_back(rows: tf.Tensor, pixels: _Pixels) -> tf.Tensor:
  """Returns a map `[batch, height, width, filters]` of the rows, 0 where no position is listed."""
  return tf.scatter_nd(pixels.index, rows, tf.concat([pixels.shape, rows.shape[-1:]], 0))
