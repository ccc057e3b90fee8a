"""Convolutions that are computed at the active positions of a map only, image by image.

Execution `sparse` keeps active pixels in a list: their neighbourhoods are gathered, one
matrix product does the convolution, and a whole residual block stays in the list before
its result is put back.  Above the share of multiply-adds at which that stops paying, all
positions are computed instead.  Execution `mask` always computes all positions and means
the same; it is for XLA and TPU, as is `tiled_conv`, which skips with static shapes.

What stands at positions that are skipped is never used: it may be NaN.
"""
import functools
from typing import Callable, NamedTuple, Optional, Sequence, Tuple

import tensorflow as tf

from official_ext.ops import group_norm

# Where the list stops being faster than the dense block; benchmarks/sparse_conv.py.  For
# a single image it never does: TensorFlow 2.20 has slow code only for its dense convolutions.
DENSE_ABOVE = 0.7


class ResidualWeights(NamedTuple):
  """The weights of a residual block of two convolutions and two group norms.

  Attributes:
    kernel1: `[3, 3, channels, channels]`.
    gamma1: `[channels]`, the scale of the norm behind the first convolution.
    beta1: `[channels]`, its offset.
    kernel2: `[3, 3, channels, channels]`.
    gamma2: `[channels]`.
    beta2: `[channels]`.
  """
  kernel1: tf.Tensor
  gamma1: tf.Tensor
  beta1: tf.Tensor
  kernel2: tf.Tensor
  gamma2: tf.Tensor
  beta2: tf.Tensor


def dilate(mask: tf.Tensor) -> tf.Tensor:
  """Returns the positions that have an active one in their 3x3 neighbourhood.

  Args:
    mask: boolean `[batch, height, width, 1]`.

  Returns:
    The same shape and dtype.
  """
  return tf.nn.max_pool2d(tf.cast(mask, tf.float32), 3, 1, 'SAME') > 0


def active_positions(gate: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
  """Returns where a residual block computes its first and its second convolution.

  Args:
    gate: `[batch, height, width, 1]`, not negative.

  Returns:
    Two boolean masks of this shape: the neighbourhoods of open positions, and these.
  """
  mask = tf.stop_gradient(gate) > 0
  return dilate(mask), mask


def residual_block_multiply_adds(gate: tf.Tensor, channels: int) -> tf.Tensor:
  """Multiply-adds of `residual_block` for each image when it skips.

  Args:
    gate: `[batch, height, width, 1]`, not negative.
    channels: of the map.

  Returns:
    float32 `[batch]`.
  """
  positions = sum(
      tf.math.count_nonzero(mask, axis=[1, 2, 3], dtype=tf.int32)
      for mask in active_positions(gate))
  return 9.0 * channels**2 * tf.cast(positions, tf.float32)


def conv2d(x: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor, execution: str = 'sparse',
           dense_above: Optional[float] = None) -> tf.Tensor:
  """A convolution of stride 1 at the active positions; 0 at the others.

  Args:
    x: `[batch, height, width, channels]`.
    kernel: `[rows, columns, channels, filters]`, rows and columns odd, of the dtype of `x`.
    mask: boolean `[batch, height, width, 1]`, another one for each image.
    execution: `sparse` or `mask`.
    dense_above: the share of active positions above which all are computed; None: what was
      measured, `DENSE_ABOVE` for several images, and never for one.

  Returns:
    `[batch, height, width, filters]`, zero padding at the borders of the map.

  Raises:
    ValueError: unknown execution.
  """
  check_execution(execution)

  def dense():
    return _where(mask, tf.nn.conv2d(x, kernel, 1, 'SAME'))

  def sparse():
    pixels = _list_pixels(mask, kernel.shape[:2])
    return _put_back(_convolve(_table_of_map(x, kernel.shape[:2]), pixels, kernel), pixels)

  if execution == 'mask':
    return dense()
  return _adapt(sparse, dense, [mask], dense_above)


def residual_block(x: tf.Tensor, gate: tf.Tensor, weights: ResidualWeights, num_groups: int,
                   epsilon: float = 1e-5, execution: str = 'sparse',
                   dense_above: Optional[float] = None) -> tf.Tensor:
  """The gated branch of a dynamic residual block (Fine-Grained Dynamic Head, 3.1).

      gate * GN(conv(ReLU(GN(conv(x)))))

  The second convolution and its norm are of the positions where the gate is above 0, the
  first ones of these positions' 3x3 neighbourhoods: each norm takes its statistics from
  the positions of its convolution, per image and group.  Reference: Song et al.,
  Fine-Grained Dynamic Head for Object Detection, https://arxiv.org/abs/2012.03519.
  Differs: there, norms see all positions in training and only active ones at inference.

  Gradients are those of the dense block with these statistics; the set of active
  positions has none.

  Args:
    x: `[batch, height, width, channels]`.
    gate: float32 `[batch, height, width, 1]`, not negative, 0 where nothing is computed.
    weights: the weights; kernels of the dtype of `x`.
    num_groups: of the norms, a divisor of the number of channels.
    epsilon: of the norms.
    execution: `sparse`: only active positions; `mask`: all, for XLA and TPU.
    dense_above: the share of the block's multiply-adds in the whole batch above which
      `sparse` computes all positions; None as in `conv2d`.

  Returns:
    The shape and dtype of `x`; 0 where the gate is.

  Raises:
    ValueError: unknown execution, or `num_groups` does not divide the channels.
  """
  check_execution(execution)
  masks = active_positions(gate)
  norm = functools.partial(group_norm.group_norm, num_groups=num_groups, epsilon=epsilon)
  if execution == 'mask':
    return _dense_block(
        x, gate, weights, [functools.partial(norm, mask=mask) for mask in masks])
  pixels = [_list_pixels(mask, (3, 3)) for mask in masks]

  def dense():
    norms = [functools.partial(group_norm.group_norm_at, index=listed.index,
                               num_groups=num_groups, epsilon=epsilon) for listed in pixels]
    return _where(masks[1], _dense_block(x, gate, weights, norms))

  def sparse():
    return _listed_block(x, gate, weights, pixels, num_groups, epsilon)

  return _adapt(sparse, dense, masks, dense_above)


def check_execution(execution: str) -> None:
  """Raises a ValueError unless the argument is `sparse` or `mask`."""
  if execution not in ('sparse', 'mask'):
    raise ValueError(
        f'execution is {execution!r}; allowed are `sparse` (compute active positions) and `mask` '
        '(compute all and keep active ones, for XLA and TPU).')


def _adapt(sparse: Callable[[], tf.Tensor], dense: Callable[[], tf.Tensor],
           masks: Sequence[tf.Tensor], dense_above: Optional[float]) -> tf.Tensor:
  """Chooses by the share of active positions, of all masks together."""
  if dense_above is None:
    dense_above = tf.where(tf.shape(masks[0])[0] > 1, DENSE_ABOVE, 1.0)
  # Nothing is special about empty masks: unlike convolutions, products of no rows are right.
  return tf.cond(tf.reduce_mean(tf.cast(masks, tf.float32)) > dense_above, dense, sparse)


def _where(mask: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
  return tf.where(mask, value, tf.zeros([], value.dtype))


def _dense_block(x, gate, weights, norms):
  hidden = tf.nn.conv2d(x, weights.kernel1, 1, 'SAME')
  hidden = tf.nn.relu(norms[0](hidden, gamma=weights.gamma1, beta=weights.beta1))
  hidden = tf.nn.conv2d(hidden, weights.kernel2, 1, 'SAME')
  return norms[1](hidden, gamma=weights.gamma2, beta=weights.beta2) * tf.cast(gate, x.dtype)


def _listed_block(x, gate, weights, pixels, num_groups, epsilon):
  first, second = pixels
  batch = tf.shape(x)[0]
  rows = _convolve(_table_of_map(x, (3, 3)), first, weights.kernel1)
  rows = tf.nn.relu(group_norm.group_norm_rows(
      rows, first.images, batch, weights.gamma1, weights.beta1, num_groups, epsilon))
  rows = _convolve(*_table_of_rows(rows, first, second), weights.kernel2)
  rows = group_norm.group_norm_rows(
      rows, second.images, batch, weights.gamma2, weights.beta2, num_groups, epsilon)
  rows *= tf.cast(tf.gather_nd(gate, second.index), x.dtype)
  return _put_back(rows, second)


class _Pixels(NamedTuple):
  """The active positions of a batch of maps, image by image.

  Attributes:
    index: int32 `[pixels, 3]`: image, row and column.
    images: int32 `[pixels]`, the first column of `index`.
    taps: int32 `[pixels, taps]`, the neighbourhood's places in the flattened padded map.
    shape: int32 `[3]`: batch, height and width.
    padded_size: int32 scalar, the number of places of the padded maps.
  """
  index: tf.Tensor
  images: tf.Tensor
  taps: tf.Tensor
  shape: tf.Tensor
  padded_size: tf.Tensor


def _list_pixels(mask: tf.Tensor, kernel_size) -> _Pixels:
  rows, columns = kernel_size
  index = tf.cast(tf.where(mask[..., 0]), tf.int32)
  shape = tf.shape(mask)[:3]
  height, width = shape[1] + rows - 1, shape[2] + columns - 1
  corner = (index[:, 0] * height + index[:, 1]) * width + index[:, 2]
  offsets = tf.reshape(tf.range(rows)[:, None] * width + tf.range(columns), [1, -1])
  return _Pixels(index, index[:, 0], corner[:, None] + offsets, shape, shape[0] * height * width)


def _table_of_map(x: tf.Tensor, kernel_size) -> tf.Tensor:
  """Returns `[places, channels]`, the map with zeros around it, flattened."""
  rows, columns = (size // 2 for size in kernel_size)
  padded = tf.pad(x, [[0, 0], [rows, rows], [columns, columns], [0, 0]])
  return tf.reshape(padded, [-1, x.shape[-1]])


def _table_of_rows(rows: tf.Tensor, source: _Pixels, target: _Pixels):
  """Returns rows with a row of zeros before them, and the target's taps as places there."""
  center = source.taps.shape[1] // 2
  places = tf.scatter_nd(
      source.taps[:, center, None], tf.range(1, tf.shape(rows)[0] + 1), [source.padded_size])
  return tf.pad(rows, [[1, 0], [0, 0]]), target._replace(taps=tf.gather(places, target.taps))


def _convolve(table: tf.Tensor, pixels: _Pixels, kernel: tf.Tensor) -> tf.Tensor:
  """Returns `[pixels, filters]`."""
  # tf.gather does the same, but its gradient, a sum by segments, is slower than this one's.
  columns = tf.gather_nd(table, pixels.taps[..., None])
  kernel = tf.reshape(kernel, [-1, kernel.shape[-1]])
  return tf.matmul(tf.reshape(columns, [-1, kernel.shape[0]]), kernel)


def _put_back(rows: tf.Tensor, pixels: _Pixels) -> tf.Tensor:
  return tf.scatter_nd(pixels.index, rows, tf.concat([pixels.shape, rows.shape[-1:]], 0))
