"""Convolutions that are computed at the active positions of maps only, image by image.

The mode `skip` lists the active positions of all maps in one list: it gathers their neighborhoods,
and computes the convolution as one matrix product.  Where so many positions are active that the
list would be slower, it computes all positions instead.  The mode `mask` always computes all
positions and returns the same; it is for XLA and TPU.

Values at skipped positions are never used; they may be NaN.
"""
from collections.abc import Callable, Sequence

import tensorflow as tf

from official_ext.ops import checks
from official_ext.ops import pixel_lists
from official_ext.ops import shapes
from official_ext.ops import export_expectation

MODES = ('skip', 'mask')
# A list of any length costs as much time as so many multiply-adds, before it saves some.
_LIST_MULTIPLY_ADDS = 2.7e7
# Norms by the active positions of maps that are computed whole cost as much for each map.
_MAP_MULTIPLY_ADDS = 1.2e7
# Where every position is active, no list is used.
_LARGEST_BREAK_EVEN = 0.999


def dilate(mask: tf.Tensor) -> tf.Tensor:
  """Returns the positions that have an active position in their 3x3 neighborhood.

  Args:
    mask: boolean `[batch, height, width, 1]`.

  Returns:
    The same shape and dtype.
  """
  # TensorFlow's pooling of one channel takes several times as long.
  height, width = shapes.sizes(mask, 1, 2)
  padded = tf.pad(mask, [[0, 0], [1, 1], [1, 1], [0, 0]])
  rows = padded[:, :height] | padded[:, 1:height + 1] | padded[:, 2:]
  return rows[:, :, :width] | rows[:, :, 1:width + 1] | rows[:, :, 2:]


def default_break_even(positions: int | tf.Tensor, channels: int, maps: int = 1,
                       saved: float = 0.0) -> float | tf.Tensor:
  """Returns the share of a block's multiply-adds above which a list is slower than all positions.

  It follows what benchmarks/sparse_conv.py measured: with few channels, to gather a neighborhood
  takes as long as to multiply it; from 256 channels on a list of nearly all positions is not slower
  than TensorFlow's convolution.  On a small map a list costs more than it saves.  One list for
  several maps costs as much as for one, while norms of maps that are computed whole take operations
  for each map, so that small maps together are listed sooner than large ones.

  Args:
    positions: height times width of the map, or their sum over all maps of the list.
    channels: of the maps.
    maps: number of maps of the list.
    saved: share of the time of convolutions of all positions that they save where exports compute
      them with fewer multiplications, see `export_expectation`.

  Returns:
    A share below 1, at most 0 where a list never pays; a tensor if `positions` is one.
  """
  multiply_adds = 18 * channels**2 * (
      tf.cast(positions, tf.float32) if tf.is_tensor(positions) else positions)
  share = pixel_lists.relative_speed(channels) * (1 - saved) + (
      _MAP_MULTIPLY_ADDS * maps - _LIST_MULTIPLY_ADDS) / multiply_adds
  smaller = tf.minimum if tf.is_tensor(share) else min
  return smaller(share, _LARGEST_BREAK_EVEN)


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
    return [where_active(mask, tf.nn.conv2d(x, kernel, 1, 'SAME'))]

  if mode == 'mask':
    return compute_all()[0]
  canvas = pixel_lists.Canvas([x], kernel.shape[:2])
  active = canvas.draw([mask[..., 0]], outside=False)

  def compute_listed():
    pixels = canvas.list_pixels(active)
    return canvas.put_back(
        pixel_lists.convolve(canvas.table([x]), pixels.taps, kernel), pixels)

  result, = compute_cheaper(
      compute_listed, compute_all, [active], canvas, [x], x.shape[-1], break_even)
  return result


def compute_cheaper(compute_listed: Callable[[], list[tf.Tensor]],
                    compute_all: Callable[[], list[tf.Tensor]], masks: Sequence[tf.Tensor],
                    canvas: pixel_lists.Canvas, maps: Sequence[tf.Tensor], channels: int,
                    break_even: float | None) -> list[tf.Tensor]:
  """Computes the active positions in a list, or all of them where so many are active.

  Args:
    compute_listed: returns the results of a list, one for each map.
    compute_all: returns the same results, computed at all positions.
    masks: boolean canvases, the active positions of each convolution.
    canvas: of the maps.
    maps: `[batch, height, width, channels]` each.
    channels: of the maps.
    break_even: share of active positions, over all masks, above which all are computed; None:
      `default_break_even`.

  Returns:
    `[batch, height, width, filters]` for each map.
  """
  if break_even is None:
    # Tiles of a list save as much for each tile, but compute positions that are not listed too.
    share = default_break_even(canvas.positions_of_image, channels, len(maps),
                               export_expectation.saved_share(maps) / 2)
    if not tf.is_tensor(share) and share <= 0:
      return compute_all()
  else:
    share = break_even
  active = sum(tf.cast(count_active(mask), tf.float32) for mask in masks)
  total = len(masks) * tf.cast(canvas.positions, tf.float32)
  # Empty masks need no branch of their own: a matrix product of no rows is right, unlike a
  # convolution of no images.
  results = tf.cond(active > share * total, compute_all, compute_listed)
  # An unknown size beside a size of 1 could be broadcast, so that a sum with a map of one position
  # would be of unknown size too.
  for result, x in zip(results, maps):
    result.set_shape([*x.shape[:3], None])
  return results


def count_active(mask: tf.Tensor) -> tf.Tensor:
  """Returns the number of active positions of a boolean mask: int32 scalar."""
  return tf.reduce_sum(tf.cast(mask, tf.int32))


def where_active(mask: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
  """Returns a value at the active positions of a boolean mask, and 0 elsewhere."""
  return tf.where(mask, value, tf.zeros([], value.dtype))
