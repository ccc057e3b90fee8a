"""Lists of the active positions of maps, image by image, and convolutions at listed positions."""
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class Pixels(NamedTuple):
  """The active positions of a batch of maps, image by image.

  Attributes:
    index: int32 `[pixels, 3]`: image, row and column.
    images: int32 `[pixels]`, the first column of `index`.
    taps: int32 `[pixels, taps]`, where the neighborhood's values stand in a table of values, see
      `convolve`.
    shape: int32 `[3]`: batch, height and width.
    padded_size: int32 scalar, the number of positions of the padded maps.
  """
  index: tf.Tensor
  images: tf.Tensor
  taps: tf.Tensor
  shape: tf.Tensor
  padded_size: tf.Tensor


def list_index(mask: tf.Tensor) -> tf.Tensor:
  """Returns image, row and column of every active position, int32 `[positions, 3]`."""
  return tf.cast(tf.where(mask[..., 0]), tf.int32)


def list_pixels(mask: tf.Tensor, kernel_size: Sequence[int]) -> Pixels:
  """Returns the active positions, with taps that are positions of the flattened padded map."""
  rows, columns = kernel_size
  index, shape = list_index(mask), tf.shape(mask)[:3]
  height, width = shape[1] + rows - 1, shape[2] + columns - 1
  corner = tf.reduce_sum(index * [height * width, width, 1], axis=1)
  offsets = tf.reshape(tf.range(rows)[:, None] * width + tf.range(columns), [1, -1])
  return Pixels(index, index[:, 0], corner[:, None] + offsets, shape, shape[0] * height * width)


def table_from_map(x: tf.Tensor, kernel_size: Sequence[int]) -> tf.Tensor:
  """Returns the map with a border of zeros, flattened: `[positions, channels]`."""
  rows, columns = (size // 2 for size in kernel_size)
  padded = tf.pad(x, [[0, 0], [rows, rows], [columns, columns], [0, 0]])
  return tf.reshape(padded, [-1, x.shape[-1]])


def convolve_rows(rows: tf.Tensor, source: Pixels, target: Pixels, kernel: tf.Tensor) -> tf.Tensor:
  """Convolves at listed positions a map that is given at listed positions, and 0 at the others.

  Args:
    rows: `[pixels of source, channels]`.
    source: the positions of the rows.
    target: the positions of the result.
    kernel: as in `convolve`.

  Returns:
    `[pixels of target, filters]`.
  """
  center = source.taps.shape[1] // 2
  places = tf.scatter_nd(
      source.taps[:, center, None], tf.range(1, tf.shape(rows)[0] + 1), [source.padded_size])
  # The first row of the table is 0.
  return convolve(tf.pad(rows, [[1, 0], [0, 0]]),
                  target._replace(taps=tf.gather(places, target.taps)), kernel)


def convolve(table: tf.Tensor, pixels: Pixels, kernel: tf.Tensor) -> tf.Tensor:
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


def put_back(rows: tf.Tensor, pixels: Pixels) -> tf.Tensor:
  """Returns a map `[batch, height, width, filters]` of the rows, 0 where no position is listed."""
  return tf.scatter_nd(pixels.index, rows, tf.concat([pixels.shape, rows.shape[-1:]], 0))
