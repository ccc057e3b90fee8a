"""Convolutions with a quarter of the multiplications or less, by matrix products and gathers.

For a kernel of 3x3 the map is cut into tiles of 6x6 positions that overlap by two, each for 4x4
results.  Products with constant matrices take a tile and a kernel to 36 numbers, for each of which
one matrix product over the tiles multiplies channels by filters, and a product with another
constant matrix takes the 36 results to 16: 2.25 multiplications for each result and pair of
channels where the definition has nine.  A kernel of 5x5 has tiles of 8x8, also for 4x4 results:
four multiplications where the definition has 25.  With a dilation rate of d, every d-th row and
column make one of d x d lattices, and the tiles are those of the lattices.

The matrices evaluate polynomials at some points and at infinity, and interpolate their product;
with points c, -c, 1/c and -1/c rounding errors are smallest.

References: Andrew Lavin, Scott Gray, Fast Algorithms for Convolutional Neural Networks,
https://arxiv.org/abs/1509.09308; the points follow Syed Asad Alam et al., Winograd Convolution for
Deep Neural Networks: Efficient Point Selection, https://doi.org/10.1145/3524069.
"""
from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from official_ext.ops import shapes


class Tile(NamedTuple):
  """How the results of a kernel are computed together.

  Attributes:
    kernel: positions of a side of the kernel.
    results: positions of a side of a tile's results.
    points: where polynomials are evaluated, beside infinity: one less than `side`.
    most_channels: products of more are summed part by part, because rounding errors of a sum grow
      with its length.
    number_cost: expected cost of a number of a tile, which is gathered and transformed, in
      multiply-adds of a convolution.
  """
  kernel: int
  results: int
  points: tuple[float, ...]
  most_channels: int
  number_cost: float

  @property
  def side(self) -> int:
    """Positions of a side of the tile."""
    return self.results + self.kernel - 1

  @property
  def products(self) -> int:
    """Multiplications of a pair of channels."""
    return self.side**2


# Costs are those that benchmarks/winograd.py measured on an AVX-512 core.
THREE = Tile(3, 4, (0, 1.5, -1.5, 2 / 3, -2 / 3), 2**31, 50)
FIVE = Tile(5, 4, (0, 0.5, -0.5, 1, -1, 2, -2), 128, 110)
# Side of a kernel -> its tile.
TILES = {tile.kernel: tile for tile in (THREE, FIVE)}
# Further costs: of a product; of a weight, which is read; and of the operations of any map.
_PRODUCT, _WEIGHT, _OPERATIONS = 1.15, 22, 1.5e7
# Share of the convolution's time that is expected at most.
_WORTH = 0.85


class Map(NamedTuple):
  """The map that is convolved.

  Attributes:
    height: positions of a column.
    width: positions of a row.
    paddings: zeros above and below, and on the left and the right.
    tile: of the kernel.
    dilation: distance of neighboring taps.
  """
  height: int
  width: int
  paddings: tuple[int, int]
  tile: Tile = THREE
  dilation: int = 1

  @property
  def results(self) -> tuple[int, int]:
    """Height and width of the result."""
    rows, columns = self.paddings
    lost = self.dilation * (self.tile.kernel - 1)
    return self.height - lost + 2 * rows, self.width - lost + 2 * columns

  @property
  def tiles(self) -> tuple[int, int]:
    """Numbers of tiles along the height and the width of a lattice."""
    height, width = (
        shapes.divide_up(shapes.divide_up(size, self.dilation), self.tile.results)
        for size in self.results)
    return height, width

  @property
  def number_of_tiles(self) -> int:
    """Tiles of all lattices."""
    return self.dilation**2 * math.prod(self.tiles)


def weights(kernel: np.ndarray) -> np.ndarray:
  """Transforms a kernel.

  Args:
    kernel: `[3, 3, channels, filters]`, or of 5x5.

  Returns:
    float32 `[36, channels, filters]`; of 5x5 64 in place of 36.
  """
  transform = _matrices(TILES[len(kernel)])[1]
  result = np.einsum('ia,jb,abcf->ijcf', transform, transform, kernel.astype(np.float64),
                     optimize=True)
  return result.reshape(-1, *kernel.shape[2:]).astype(np.float32)


def kernel_transform(tile: Tile) -> np.ndarray:
  """Returns the matrix that transforms flattened kernels, float64 `[products, kernel**2]`."""
  own = _matrices(tile)[1]
  return np.kron(own, own)


def tiles(x: tf.Tensor, own: Map) -> tf.Tensor:
  """Cuts maps into tiles and transforms them.

  Args:
    x: float32 `[batch, height, width, channels]`; the batch may be unknown.
    own: of the maps.

  Returns:
    float32 `[products, parts * tiles, channels of a part]`; first come those of one part of the
    channels, and of one lattice of all images.
  """
  (rows, columns), tile, rate = own.tiles, own.tile, own.dilation
  height, width = (rate * (tile.results * number + tile.kernel - 1) for number in own.tiles)
  above, left = own.paddings
  x = tf.pad(x, [[0, 0], [above, height - own.height - above],
                 [left, width - own.width - left], [0, 0]])
  inside = rate * (np.arange(tile.side)[:, None] * width + np.arange(tile.side))
  lattices = np.arange(rate)[:, None] * width + np.arange(rate)
  corners = rate * tile.results * (np.arange(rows)[:, None] * width + np.arange(columns))
  places = (inside.reshape(-1, 1, 1, 1) + lattices.reshape(1, -1, 1, 1)
            + corners.reshape(1, 1, 1, -1)).astype(np.int32)
  images = tf.reshape(tf.range(tf.shape(x)[0]) * (height * width), [1, 1, -1, 1])
  table, places = _in_parts(tf.reshape(x, [-1, x.shape[-1]]), places + images, tile)
  return transform(tf.gather(table, tf.reshape(places, [-1])), tile)


def _in_parts(table: tf.Tensor, places: tf.Tensor, tile: Tile) -> tuple[tf.Tensor, tf.Tensor]:
  """Splits the channels of a table into parts, one after the other.

  Args:
    table: float32 `[rows, channels]`.
    places: int32 `[products, ...]`, rows of the table.
    tile: says how many channels a part has at most.

  Returns:
    The table `[parts * rows, channels of a part]`, and the places `[products, parts, ...]` in it.
  """
  parts = number_of_parts(table.shape[-1], tile)
  places = places[:, None]
  if parts > 1:
    rows = tf.shape(table)[0] * tf.range(parts)
    places += tf.reshape(rows, [-1, *[1] * (places.shape.rank - 2)])
    size = table.shape[-1] // parts
    table = tf.reshape(tf.transpose(tf.reshape(table, [-1, parts, size]), [1, 0, 2]), [-1, size])
  return table, places


def number_of_parts(channels: int, tile: Tile) -> int:
  """Returns into how many equal parts channels are split; 1 if they have no such divisor."""
  fewest = shapes.divide_up(channels, tile.most_channels)
  return next((parts for parts in range(fewest, 2 * fewest) if channels % parts == 0), 1)


def transform(x: tf.Tensor, tile: Tile = THREE) -> tf.Tensor:
  """Transforms tiles.

  Args:
    x: float32 `[products * tiles, channels]`, the positions of a tile one after the other, of each
      those of all tiles.
    tile: of them.

  Returns:
    float32 `[products, tiles, channels]`.
  """
  matrix = tf.constant(_matrices(tile)[2], tf.float32)
  size = x.shape[-1]
  x = tf.matmul(matrix, tf.reshape(x, [tile.side, -1]))
  x = tf.matmul(matrix, tf.reshape(x, [tile.side, tile.side, -1]))
  return tf.reshape(x, [tile.products, -1, size])


def multiply(transformed: tf.Tensor, weighting: tf.Tensor, own: Map) -> tf.Tensor:
  """Multiplies tiles by a kernel and puts the results together.

  Args:
    transformed: what `tiles` returned.
    weighting: what `weights` returned.
    own: of the maps.

  Returns:
    float32 `[batch, height, width, filters]`, for an empty batch too; the sizes are `own.results`.
  """
  filters, (rows, columns), (height, width) = weighting.shape[-1], own.tiles, own.results
  side, rate = own.tile.results, own.dilation
  results = tf.reshape(results_of_tiles(transformed, weighting, own.tile),
                       [side, side, -1, columns, filters])
  rows, columns = side * rows, side * columns
  results = tf.reshape(tf.transpose(results, [2, 0, 3, 1, 4]), [-1, rows, columns, filters])
  if rate > 1:
    results = tf.reshape(results, [rate, rate, -1, rows, columns, filters])
    results = tf.reshape(tf.transpose(results, [2, 3, 0, 4, 1, 5]),
                         [-1, rate * rows, rate * columns, filters])
  return results[:, :height, :width]


def results_of_tiles(transformed: tf.Tensor, weighting: tf.Tensor, tile: Tile = THREE) -> tf.Tensor:
  """Multiplies tiles by a kernel.

  Args:
    transformed: what `tiles` or `transform` returned.
    weighting: what `weights` or `export_expectation.weights_in_graph` returned.
    tile: of the kernel.

  Returns:
    float32 `[results**2 * tiles, filters]`, the positions of a tile's results one after the other,
    of each those of all tiles.
  """
  channels, filters = weighting.shape[1:]
  size = transformed.shape[-1]
  parts = channels // size
  products = tf.matmul(tf.reshape(transformed, [tile.products * parts, -1, size]),
                       tf.reshape(weighting, [tile.products * parts, size, filters]))
  # Columns first: the sum over the parts comes with them.
  matrix = _matrices(tile)[0]
  x = tf.matmul(tf.constant(np.repeat(matrix, parts, 1), tf.float32),
                tf.reshape(products, [tile.side, tile.side * parts, -1]))
  x = tf.matmul(tf.constant(matrix, tf.float32), tf.reshape(x, [tile.side, -1]))
  return tf.reshape(x, [-1, filters])


def saving(shape: Sequence[int], own: Map, filters: int) -> float:
  """Returns the multiply-adds that are expected to be saved; 0 where it is not worth it.

  Args:
    shape: batch, height, width and channels of the map; one image stands for an unknown batch.
    own: the map.
    filters: number of filters.
  """
  (batch, *_, channels), results = shape, math.prod(own.results)
  direct = batch * results * own.tile.kernel**2 * channels * filters
  expected = batch * own.number_of_tiles * tile_multiply_adds(channels, filters, own.tile) + (
      own.tile.products * channels * filters * _WEIGHT + _OPERATIONS)
  return direct - expected if expected <= _WORTH * direct else 0.0


def tile_multiply_adds(channels: int, filters: int, tile: Tile = THREE) -> float:
  """Returns what a tile is expected to take, in multiply-adds of a convolution."""
  numbers = channels + number_of_parts(channels, tile) * filters
  return tile.products * (_PRODUCT * channels * filters + tile.number_cost * numbers)


def _matrices(tile: Tile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the matrices of one axis, float64.

  Args:
    tile: the tile.

  Returns:
    Of results `[results, side]`, kernels `[side, kernel]` and tiles `[side, side]`.
  """
  points, at_infinity = np.array(tile.points), np.eye(tile.side)[-1]

  def values(count: int) -> np.ndarray:
    return np.concatenate([points[:, None]**np.arange(count), at_infinity[None, -count:]])

  inverse = np.linalg.inv(values(tile.side)).T
  scale = np.abs(inverse).max(1, keepdims=True)  # Rows of similar size round less.
  return values(tile.results).T, values(tile.kernel) * scale, inverse / scale
