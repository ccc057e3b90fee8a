"""A 3x3 convolution with a quarter of the multiplications, by matrix products and gathers.

The map is cut into tiles of 6x6 positions that overlap by two, each for 4x4 results.  Products with
constant matrices take a tile and a kernel to 36 numbers, for each of which one matrix product over
the tiles multiplies channels by filters, and a product with another constant matrix takes the 36
results to 16: 2.25 multiplications for each result and pair of channels where the definition has
nine.  The matrices evaluate polynomials at five points and at infinity, and interpolate their
product; with points c, -c, 1/c and -1/c rounding errors are twice those of the definition.

References: Andrew Lavin, Scott Gray, Fast Algorithms for Convolutional Neural Networks,
https://arxiv.org/abs/1509.09308; the points follow Syed Asad Alam et al., Winograd Convolution for
Deep Neural Networks: Efficient Point Selection, https://doi.org/10.1145/3524069.
"""
from collections.abc import Iterator, Sequence
import contextlib
import math
import threading
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from official_ext.ops import shapes

KERNEL = 3
# Positions of a side of a tile's results, and of the tile.
RESULTS = 4
TILE = RESULTS + KERNEL - 1
PRODUCTS = TILE**2
_POINTS = np.array([0, 3, -3, 4 / 3, -4 / 3]) / 2
# Name of what `weights_in_graph` adds to a graph.
WEIGHTS_SCOPE = 'winograd_weights'
# Expected costs, in multiply-adds of a convolution: of a product; of a number of a tile, which is
# gathered and transformed; of a weight, which is read; and of the operations of any map.
# benchmarks/winograd.py measured them on an AVX-512 core.
_PRODUCT, _NUMBER, _WEIGHT, _OPERATIONS = 1.15, 50, 22, 1.5e7
# Share of the convolution's time that is expected at most.
_WORTH = 0.85


class Expectation:
  """Collects what was traced in `expected`.

  Attributes:
    shares: what `saved_share` returned, if it was not 0.
    bytes: of all results of `weights_in_graph`.
  """

  def __init__(self):
    self.shares: list[float] = []
    self.bytes = 0


class _State(threading.local):
  """What `expected` gave; None: convolutions of a thread are computed as they are defined."""
  expectation: Expectation | None = None


_state = _State()


class Map(NamedTuple):
  """The map that is convolved.

  Attributes:
    height: positions of a column.
    width: positions of a row.
    padding: zeros on each side, 0 or 1.
  """
  height: int
  width: int
  padding: int

  @property
  def results(self) -> tuple[int, int]:
    """Height and width of the result."""
    lost = KERNEL - 1 - 2 * self.padding
    return self.height - lost, self.width - lost

  @property
  def tiles(self) -> tuple[int, int]:
    """Numbers of tiles along height and width."""
    height, width = self.results
    return shapes.divide_up(height, RESULTS), shapes.divide_up(width, RESULTS)


def weights(kernel: np.ndarray) -> np.ndarray:
  """Transforms a kernel.

  Args:
    kernel: `[3, 3, channels, filters]`.

  Returns:
    float32 `[36, channels, filters]`.
  """
  transform = _matrices()[1]
  result = np.einsum('ia,jb,abcf->ijcf', transform, transform, kernel.astype(np.float64),
                     optimize=True)
  return result.reshape(PRODUCTS, *kernel.shape[2:]).astype(np.float32)


def weights_in_graph(kernel: tf.Tensor) -> tf.Tensor:
  """Transforms a kernel as `weights` does, in a graph; exports make a constant of it.

  Args:
    kernel: float32 `[3, 3, channels, filters]`.

  Returns:
    float32 `[36, channels, filters]`.
  """
  own = _matrices()[1]
  if _state.expectation is not None:
    _state.expectation.bytes += PRODUCTS * kernel.shape[2] * kernel.shape[3] * kernel.dtype.size
  with tf.name_scope(WEIGHTS_SCOPE):
    result = tf.matmul(tf.constant(np.kron(own, own), tf.float32),
                       tf.reshape(kernel, [KERNEL**2, -1]))
  return tf.reshape(result, [PRODUCTS, *kernel.shape[2:]])


def tiles(x: tf.Tensor, own: Map) -> tf.Tensor:
  """Cuts maps into tiles and transforms them.

  Args:
    x: float32 `[batch, height, width, channels]`; the batch may be unknown.
    own: of the maps.

  Returns:
    float32 `[36, batch * tiles, channels]`.
  """
  channels, (rows, columns) = x.shape[-1], own.tiles
  height, width = (RESULTS * number + KERNEL - 1 for number in own.tiles)
  before = own.padding
  x = tf.pad(x, [[0, 0], [before, height - own.height - before],
                 [before, width - own.width - before], [0, 0]])
  inside = np.arange(TILE)[:, None] * width + np.arange(TILE)
  corners = RESULTS * (np.arange(rows)[:, None] * width + np.arange(columns))
  places = (inside.reshape(-1, 1, 1) + corners.reshape(1, 1, -1)).astype(np.int32)
  images = tf.reshape(tf.range(tf.shape(x)[0]) * (height * width), [1, -1, 1])
  return transform(tf.gather(tf.reshape(x, [-1, channels]), tf.reshape(places + images, [-1])))


def transform(x: tf.Tensor) -> tf.Tensor:
  """Transforms tiles.

  Args:
    x: float32 `[36 * tiles, channels]`, the positions of a tile one after the other, of each those
      of all tiles.

  Returns:
    float32 `[36, tiles, channels]`.
  """
  return tf.reshape(_transform(x, _matrices()[2]), [PRODUCTS, -1, x.shape[-1]])


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
  results = tf.reshape(results_of_tiles(transformed, weighting),
                       [RESULTS, RESULTS, -1, columns, filters])
  results = tf.reshape(tf.transpose(results, [2, 0, 3, 1, 4]),
                       [-1, rows * RESULTS, columns * RESULTS, filters])
  return results[:, :height, :width]


def results_of_tiles(transformed: tf.Tensor, weighting: tf.Tensor) -> tf.Tensor:
  """Multiplies tiles by a kernel.

  Args:
    transformed: what `tiles` or `transform` returned.
    weighting: what `weights` or `weights_in_graph` returned.

  Returns:
    float32 `[16 * tiles, filters]`, the positions of a tile's 4x4 results one after the other, of
    each those of all tiles.
  """
  results = _transform(tf.matmul(transformed, weighting), _matrices()[0])
  return tf.reshape(results, [-1, weighting.shape[-1]])


def saving(shape: Sequence[int], own: Map, filters: int) -> float:
  """Returns the multiply-adds that are expected to be saved; 0 where it is not worth it.

  Args:
    shape: batch, height, width and channels of the map; one image stands for an unknown batch.
    own: the map.
    filters: number of filters.
  """
  (batch, *_, channels), (height, width), (rows, columns) = shape, own.results, own.tiles
  direct = batch * height * width * KERNEL**2 * channels * filters
  tiles = batch * rows * columns
  expected = tiles * tile_multiply_adds(channels, filters) + (
      PRODUCTS * channels * filters * _WEIGHT + _OPERATIONS)
  return direct - expected if expected <= _WORTH * direct else 0.0


def tile_multiply_adds(channels: int, filters: int) -> float:
  """Returns what a tile is expected to take, in multiply-adds of a convolution."""
  return PRODUCTS * (_PRODUCT * channels * filters + _NUMBER * (channels + filters))


@contextlib.contextmanager
def expected() -> Iterator[Expectation]:
  """Says that convolutions traced in this thread will be computed so, as exports do it later.

  Operations that choose between a convolution and another way read it by `saved_share`.

  Yields:
    What is collected meanwhile.
  """
  before, _state.expectation = _state.expectation, Expectation()
  try:
    yield _state.expectation
  finally:
    _state.expectation = before


def saved_share(maps: Sequence[tf.Tensor]) -> float:
  """Returns the share of the time of convolutions with as many filters as channels that is saved.

  Args:
    maps: `[batch, height, width, channels]` each, with zeros around.

  Returns:
    0 outside of `expected`, and for maps of unknown size or of another dtype than float32.
  """
  if _state.expectation is None or any(
      None in x.shape[1:] or x.dtype != tf.float32 for x in maps):
    return 0.0
  sizes = [(x.shape[0] or 1, *x.shape[1:]) for x in maps]
  saved = sum(saving(size, Map(size[1], size[2], 1), size[3]) for size in sizes)
  share = saved / sum(math.prod(size) * KERNEL**2 * size[3] for size in sizes)
  if share:
    _state.expectation.shares.append(share)
  return share


def _transform(x: tf.Tensor, matrix: np.ndarray) -> tf.Tensor:
  """Multiplies the rows and the columns of tiles, which come first, by a matrix."""
  after, before = matrix.shape
  matrix = tf.constant(matrix, tf.float32)
  x = tf.matmul(matrix, tf.reshape(x, [before, -1]))
  return tf.matmul(matrix, tf.reshape(x, [after, before, -1]))


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the matrices of results `[4, 6]`, kernels `[6, 3]` and tiles `[6, 6]` of one axis."""
  at_infinity = np.eye(TILE)[-1]

  def values(count: int) -> np.ndarray:
    return np.concatenate([_POINTS[:, None]**np.arange(count), at_infinity[None, -count:]])

  tile = np.linalg.inv(values(TILE)).T
  scale = np.abs(tile).max(1, keepdims=True)  # Rows of similar size round less.
  return values(RESULTS).T, values(KERNEL) * scale, tile / scale
