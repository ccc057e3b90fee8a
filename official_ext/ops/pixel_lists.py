"""One list of the active positions of several maps, and convolutions at listed positions."""
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from official_ext.ops import planes
from official_ext.ops import shapes


class Pixels(NamedTuple):
  """The active positions of a batch of maps, image by image, and map by map in each image.

  Attributes:
    rows: int32 `[pixels]`, where their values stand in `Canvas.table`.
    segments: int32 `[pixels]`, ascending: image * number of maps + number of the map.
    places: int32 `[pixels]`, on the flattened canvases of all images.
    neighbors: int32 `[pixels, taps]`, the places of the positions that a kernel covers.
    taps: int32 `[pixels, taps]`, rows of the table for these; 0 outside of the map.
  """
  rows: tf.Tensor
  segments: tf.Tensor
  places: tf.Tensor
  neighbors: tf.Tensor
  taps: tf.Tensor


class Canvas(planes.Plane):
  """A plane on which the active positions of all maps are found and numbered.

  One operation finds the active positions of all maps, one their neighbors, and one multiplies
  them, where a list for each map would need as many of each; on small maps they take more time
  than the work.

  Values of several channels are not copied there: they stand in a table without borders.

  Attributes:
    segments: number of maps times number of images.
    positions_of_image: number of positions of all maps of an image.
    positions: number of positions of all maps and images.
    inside: boolean `[rows, columns]`, which places of an image's canvas are positions of a map.
  """

  def __init__(self, maps: Sequence[tf.Tensor], kernel_size: Sequence[int]):
    """Initializes the canvas; arguments are those of `planes.Plane`."""
    super().__init__(maps, kernel_size)
    numbers = [tf.reshape(tf.range(height * width), [1, height, width])
               for height, width in self.sizes]
    # The number of every place's position in its map, -1 outside of the maps.
    self._numbers = self.draw(numbers, outside=-1)[0]
    self.inside = self._numbers >= 0
    self._batch, = shapes.sizes(maps[0], 0)
    self.segments = self._batch * len(maps)
    self.positions_of_image = sum(height * width for height, width in self.sizes)
    self.positions = self._batch * self.positions_of_image

  def list_pixels(self, mask: tf.Tensor) -> Pixels:
    """Returns the active positions.

    Args:
      mask: boolean canvas `[batch, rows, columns]`, False outside of the maps.
    """
    index = tf.cast(tf.where(mask), tf.int32)
    images, number = index[:, 0], tf.gather(self.map_of_row(), index[:, 1])
    size = tf.size(self._numbers)
    own = index[:, 1] * self.width + index[:, 2]
    neighbors = own[:, None] + self._offsets()
    start, areas = self._starts()
    first = tf.gather(start, number) + images * tf.gather(areas, number)
    numbers = tf.reshape(self._numbers, [-1])
    tap_numbers = tf.gather(numbers, neighbors)
    taps = tf.where(tap_numbers < 0, 0, tap_numbers + first[:, None])
    before = images * size
    return Pixels(first + tf.gather(numbers, own), images * len(self.sizes) + number,
                  before + own, before[:, None] + neighbors, taps)

  def rows_of_places(self) -> tf.Tensor:
    """Returns the row of the table of each place: int32 `[batch, rows, columns]`, 0 if outside."""
    start, areas = (tf.gather(each, self.map_of_row())[:, None] for each in self._starts())
    rows = self._numbers + start + tf.range(self._batch)[:, None, None] * areas
    return tf.where(self._numbers < 0, 0, rows)

  def rows_of_listed(self, pixels: Pixels) -> tf.Tensor:
    """Returns the number of each place in a list, from 1 on: int32 `[batch, rows, columns]`."""
    numbers = tf.range(1, tf.shape(pixels.places)[0] + 1)
    shape = tf.concat([[self._batch], tf.shape(self._numbers)], 0)
    rows = tf.scatter_nd(pixels.places[:, None], numbers, [tf.reduce_prod(shape)])
    return tf.reshape(rows, shape)

  def _starts(self) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first row of the table of each map, and the map's area: int32 `[maps]`.

    Rows of a map's images follow one another, after a row of zeros and the maps before it.
    """
    areas = tf.stack([height * width for height, width in self.sizes])
    return 1 + self._batch * tf.cumsum(areas, exclusive=True), areas

  def _offsets(self) -> tf.Tensor:
    """Returns the distances of the positions that a kernel covers, int32 `[1, taps]`."""
    rows, columns = (tf.range(-side, side + 1) for side in self.border)
    return tf.reshape(rows[:, None] * self.width + columns, [1, -1])

  def table(self, maps: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns all values below one another, after a row of zeros: `[1 + positions, channels]`."""
    channels = maps[0].shape[-1]
    return tf.concat([tf.zeros([1, channels], maps[0].dtype),
                      *(tf.reshape(x, [-1, channels]) for x in maps)], axis=0)

  def maps(self, table: tf.Tensor) -> list[tf.Tensor]:
    """Returns the maps of a table, `[batch, height, width, channels]` each."""
    parts = tf.split(table, [1, *(self._batch * height * width
                                  for height, width in self.sizes)])
    return [tf.reshape(part, [-1, height, width, table.shape[-1]])
            for part, (height, width) in zip(parts[1:], self.sizes)]

  def put_back(self, rows: tf.Tensor, pixels: Pixels) -> list[tf.Tensor]:
    """Returns maps of listed values `[pixels, filters]`, 0 where no position is listed."""
    shape = tf.stack([1 + self.positions, rows.shape[-1]])
    return self.maps(tf.scatter_nd(pixels.rows[:, None], rows, shape))

  def convolve_listed(self, values: tf.Tensor, source: Pixels, target: Pixels, kernel: tf.Tensor
                      ) -> tf.Tensor:
    """Convolves maps that are given at listed positions, and 0 at the others.

    Args:
      values: `[pixels of source, channels]`.
      source: the positions of the values.
      target: the positions of the result.
      kernel: as in `convolve`.

    Returns:
      `[pixels of target, filters]`.
    """
    row_of_place = tf.reshape(self.rows_of_listed(source), [-1])
    # The first row of the table is 0.
    return convolve(tf.pad(values, [[1, 0], [0, 0]]),
                    tf.gather(row_of_place, target.neighbors), kernel)


def relative_speed(channels: int) -> float:
  """Returns the speed of a convolution at listed positions, as a share of that of all positions.

  With few channels, to gather a neighborhood takes as long as to multiply it; from 256 on a list
  loses nothing.  benchmarks/sparse_conv.py measured it.
  """
  return min(1.0, (channels + 96) / 352)


def convolve(table: tf.Tensor, taps: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  """Convolves at listed positions, as one matrix product.

  Args:
    table: values `[rows, channels]`.
    taps: int32 `[pixels, taps]`, the rows that the kernel covers at each position.
    kernel: `[rows, columns, channels, filters]`.

  Returns:
    `[pixels, filters]`.
  """
  columns = _gather(table, taps)
  kernel = tf.reshape(kernel, [-1, kernel.shape[-1]])
  return tf.matmul(tf.reshape(columns, [-1, kernel.shape[0]]), kernel)


@tf.custom_gradient
def _gather(table: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, Any]:
  """Returns `tf.gather(table, rows)`, whose own gradient, sorted slices, is slower."""

  def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
    return tf.scatter_nd(rows[..., None], upstream, tf.shape(table)), None

  return tf.gather(table, rows), gradient
