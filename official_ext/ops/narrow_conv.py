"""3x3 convolutions to very few channels, such as the logits of gates, as matrix products.

A convolution to one channel has little to compute and reads the whole map; TensorFlow's kernels for
a CPU take three times as long for it as a product of the map with the nine taps.
"""
from collections.abc import Callable, Sequence

import tensorflow as tf

from official_ext.ops import planes

# Values `[filters, batch, rows, columns]`, and the number of the map of every row -> values.
Activation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def conv2d(maps: Sequence[tf.Tensor], kernel: tf.Tensor, bias: tf.Tensor,
           filters: Sequence[range] | None = None, activation: Activation | None = None
           ) -> list[list[tf.Tensor]]:
  """Convolves maps with stride 1 and zero padding.

  A product with all taps for each map, then sums of shifted products for all maps at once.

  Args:
    maps: `[batch, height, width, channels]` each.
    kernel: `[3, 3, channels, filters]`, of the dtype of the maps.
    bias: `[filters]`.
    filters: numbers of the filters of each map; None: all.
    activation: what the sums of all maps go through at once, position by position.

  Returns:
    For each map the results of its filters, `[batch, height, width, 1]`.
  """
  every = range(kernel.shape[-1])
  filters = [every] * len(maps) if filters is None else filters
  plane = planes.Plane(maps, (3, 3))
  products = plane.draw([_products(x, kernel, own, size)
                         for x, own, size in zip(maps, filters, plane.sizes, strict=True)])
  values = bias[:, None, None, None] + tf.add_n([
      products[3 * row + column, :, :, row:_end(row), column:_end(column)]
      for row in range(3) for column in range(3)])
  if activation is not None:
    values = activation(values, plane.map_of_row()[1:-1])
  # The sums have no border.
  return [[values[number, :, first - 1:first - 1 + height, :width, None] for number in own]
          for own, first, (height, width) in zip(filters, plane.first_rows(), plane.sizes)]


def _products(x: tf.Tensor, kernel: tf.Tensor, filters: range, size: Sequence[int | tf.Tensor]
              ) -> tf.Tensor:
  """Multiplies a map by the taps of some filters.

  Args:
    x: `[batch, height, width, channels]`.
    kernel: `[3, 3, channels, all filters]`.
    filters: numbers of the filters.
    size: height and width of the map.

  Returns:
    `[9, all filters, batch, height, width]`, 0 for the other filters.
  """
  channels, every = kernel.shape[2:]
  own = kernel[..., filters.start:filters.stop]
  # Filters stand before positions, because shifts of whole rows are fast.
  taps = tf.reshape(tf.transpose(own, [0, 1, 3, 2]), [9 * len(filters), channels])
  products = tf.reshape(tf.matmul(taps, tf.reshape(x, [-1, channels]), transpose_b=True),
                        [9, len(filters), -1, *size])
  if len(filters) == every:
    return products
  return tf.pad(products, [[0, 0], [filters.start, every - filters.stop], *[[0, 0]] * 3])


def _end(shift: int) -> int | None:
  """Returns where a slice ends that begins at 0, 1 or 2 and is two shorter than the whole."""
  return shift - 2 or None
