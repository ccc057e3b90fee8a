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
from official_ext.ops import pixel_lists

MODES = ('skip', 'mask')
# A list of any length costs as much time as so many multiply-adds, before it saves some.
_LIST_MULTIPLY_ADDS = 1.5e7


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
  # TensorFlow's pooling of one channel takes several times as long.
  height, width = (known or tf.shape(mask)[axis] for axis, known in enumerate(mask.shape[1:3], 1))
  padded = tf.pad(mask, [[0, 0], [1, 1], [1, 1], [0, 0]])
  rows = padded[:, :height] | padded[:, 1:height + 1] | padded[:, 2:]
  return rows[:, :, :width] | rows[:, :, 1:width + 1] | rows[:, :, 2:]


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


def default_break_even(positions: int | tf.Tensor, channels: int) -> float | tf.Tensor:
  """Returns the share of a block's multiply-adds above which a list is slower than all positions.

  It follows what benchmarks/sparse_conv.py measured: with few channels, to gather a neighborhood
  takes as long as to multiply it; from 256 channels on a list of all positions is not slower than
  TensorFlow's convolution.  On a small map a list costs more than it saves.

  Args:
    positions: height times width of the map.
    channels: of the map.

  Returns:
    A share, at most 0 where a list never pays; a tensor if `positions` is one.
  """
  multiply_adds = 18 * channels**2 * (
      tf.cast(positions, tf.float32) if tf.is_tensor(positions) else positions)
  return min(1.0, (channels + 96) / 352) - _LIST_MULTIPLY_ADDS / multiply_adds


def sparse_conv2d(x: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor, mode: str = 'skip',
                  break_even: float | None = None) -> tf.Tensor:
  """Convolves with stride 1 at the active positions; the others are 0.

  Args:
    x: `[batch, height, width, channels]`.
    kernel: `[rows, columns, channels, filters]`, rows and columns odd, of the dtype of `x`.
    mask: boolean `[batch, height, width, 1]`, the active positions of each image.
    mode: `skip` computes active positions, `mask` all of them.
    break_even: share of active positions above which `skip` computes all of them; None:
      `default_break_even`.

  Returns:
    `[batch, height, width, filters]`, with zero padding at the borders of the map.

  Raises:
    ArgumentError: unknown mode.
  """
  checks.check_one_of('mode', mode, MODES)

  def compute_all():
    return _where(mask, tf.nn.conv2d(x, kernel, 1, 'SAME'))

  def compute_listed():
    pixels = pixel_lists.list_pixels(mask, kernel.shape[:2])
    table = pixel_lists.table_from_map(x, kernel.shape[:2])
    return pixel_lists.put_back(pixel_lists.convolve(table, pixels, kernel), pixels)

  if mode == 'mask':
    return compute_all()
  return _compute_cheaper(compute_listed, compute_all, [mask], x.shape[-1], break_even)


def residual_block(x: tf.Tensor, gate: tf.Tensor, weights: ResidualWeights, num_groups: int,
                   mode: str = 'skip', break_even: float | None = None,
                   adds_input: bool = False) -> tf.Tensor:
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
      computes all positions; None: `default_break_even`.
    adds_input: whether to return ReLU(x + branch), which then is ReLU(x) where the gate is 0.

  Returns:
    The shape and dtype of `x`; 0 where the gate is 0, if the input is not added.

  Raises:
    ArgumentError: unknown mode.
    ValueError: `num_groups` does not divide the channels.
  """
  checks.check_one_of('mode', mode, MODES)
  masks = active_positions(gate)

  def full(norms):
    branch = _full_block(x, gate, weights, norms)
    return tf.nn.relu(x + branch) if adds_input else branch

  norm = functools.partial(group_norm.group_norm, num_groups=num_groups)
  if mode == 'mask':
    return full([functools.partial(norm, mask=mask) for mask in masks])

  def compute_most():
    first, second = (
        functools.partial(group_norm.group_norm_at, index=pixel_lists.list_index(mask),
                          num_groups=num_groups) for mask in masks)
    return full([first, lambda *args, **kwargs: _where(masks[1], second(*args, **kwargs))])

  def compute_all():
    # If every gate is open, norms need no list of positions.
    return tf.cond(tf.reduce_all(masks[1]), lambda: full([norm, norm]), compute_most)

  def compute_listed():
    return _listed_block(x, gate, weights, masks, num_groups, adds_input)

  def compute_any():
    return _compute_cheaper(compute_listed, compute_all, masks, x.shape[-1], break_even)

  # In eager execution a branch without weights would give them no gradients instead of zeros.
  if not adds_input or tf.executing_eagerly():
    return compute_any()
  result = tf.cond(tf.reduce_any(masks[1]), compute_any, lambda: tf.nn.relu(x))
  result.set_shape(x.shape)
  return result


def _compute_cheaper(compute_listed: Callable[[], tf.Tensor], compute_all: Callable[[], tf.Tensor],
                     masks: Sequence[tf.Tensor], channels: int, break_even: float | None
                     ) -> tf.Tensor:
  """Computes all positions if the share of active ones, over all masks, is above `break_even`."""
  if break_even is None:
    height, width = masks[0].shape[1:3]
    share = default_break_even(
        height * width if height and width else tf.reduce_prod(tf.shape(masks[0])[1:3]), channels)
    if not tf.is_tensor(share) and share <= 0:
      return compute_all()
  else:
    share = break_even
  # Empty masks need no branch of their own: a matrix product of no rows is right, unlike a
  # convolution of no images.
  result = tf.cond(
      tf.reduce_mean(tf.cast(masks, tf.float32)) > share, compute_all, compute_listed)
  # `put_back` knows no sizes.  An unknown size beside a size of 1 could be broadcast, so that a
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
                  masks: Sequence[tf.Tensor], num_groups: int, adds_input: bool) -> tf.Tensor:
  """Computes the block at the active positions of each convolution."""
  # The positions that the first convolution reads are a list too: a padded map to read from would
  # take as long as a large part of a sparse block.
  needed, first, second = (
      pixel_lists.list_pixels(mask, (3, 3)) for mask in (dilate(masks[0]), *masks))
  batch = tf.shape(x)[0]
  rows = pixel_lists.convolve_rows(
      tf.gather_nd(x, needed.index), needed, first, weights.kernel1)
  rows = tf.nn.relu(group_norm.group_norm_rows(
      rows, first.images, batch, weights.gamma1, weights.beta1, num_groups))
  rows = pixel_lists.convolve_rows(rows, first, second, weights.kernel2)
  rows = group_norm.group_norm_rows(
      rows, second.images, batch, weights.gamma2, weights.beta2, num_groups)
  rows *= tf.cast(tf.gather_nd(gate, second.index), x.dtype)
  if not adds_input:
    return pixel_lists.put_back(rows, second)
  rows = tf.nn.relu(tf.gather_nd(x, second.index) + rows)
  return tf.tensor_scatter_nd_update(tf.nn.relu(x), second.index, rows)
