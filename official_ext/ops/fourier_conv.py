"""A convolution with a large kernel, in the Fourier domain, by matrix products alone.

The map is cut into tiles that overlap by the reach of the kernel (overlap-save).  Products with
constant matrices take a tile's discrete Fourier transform along its rows and its columns, of the
rows only the half that is not redundant.  For each frequency one matrix product over the tiles
multiplies channels by filters, and products with constant matrices bring the valid part of a tile
back.  A product of complex numbers is three of real ones (Gauss): the transform gives real part,
imaginary part and their sum, and the inverse transform puts the three products together.

Reference: Michael Mathieu, Mikael Henaff, Yann LeCun, Fast Training of Convolutional Networks
through FFTs, https://arxiv.org/abs/1312.5851; overlap-save as in Alan Oppenheim and Ronald Schafer,
Discrete-Time Signal Processing, section 8.7.
"""
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# From real and imaginary part to Gauss's three factors, and from his three products to the parts.
_FACTORS = np.array([[1, 0], [0, 1], [1, 1]])
_PRODUCTS = np.array([[0, -1, 1], [1, 0, 1]])
# Channels whose frequencies are computed at once, in float64.
_CHUNK = 32


class Axis(NamedTuple):
  """How one axis of a map is cut into tiles.

  Attributes:
    size: positions of the map.
    reach: positions that a kernel reaches to either side.
    tile: positions of a tile, even and at least four times the reach: a tile is a block of new
      positions and the start of the next block.
  """
  size: int
  reach: int
  tile: int

  @property
  def block(self) -> int:
    """Valid positions of a tile's result."""
    return self.tile - 2 * self.reach

  @property
  def tiles(self) -> int:
    """Number of tiles."""
    return -(-self.size // self.block)

  @property
  def padding(self) -> list[int]:
    """Zeros before and after, which make one block more than there are tiles."""
    return [self.reach, (self.tiles + 1) * self.block - self.size - self.reach]

  def forward(self, count: int) -> np.ndarray:
    """Returns the transform to `count` frequencies, complex `[count, tile]`."""
    return np.exp(-2j * np.pi / self.tile * np.outer(np.arange(count), np.arange(self.tile)))

  def backward(self, count: int) -> np.ndarray:
    """Returns the inverse from `count` frequencies, complex `[block, count]`."""
    return self.forward(count)[:, :self.block].conj().T / self.tile


class Tiling(NamedTuple):
  """How a map is cut into tiles: along its rows and along its columns."""
  rows: Axis
  columns: Axis

  @property
  def half(self) -> int:
    """The number of frequencies along the rows: the others are redundant for real numbers."""
    return self.rows.tile // 2 + 1

  @property
  def products(self) -> int:
    """The number of real products for a tile and a pair of channels, and of weights for a pair."""
    return self.half * self.columns.tile * len(_FACTORS)

  @property
  def transform(self) -> int:
    """The number of multiply-adds that transform a tile of one channel."""
    return 2 * self.half * self.columns.tile * (self.rows.tile + len(_FACTORS) * self.columns.tile)

  @property
  def inverse(self) -> int:
    """The number of multiply-adds that bring a tile of one filter back."""
    return 2 * self.half * self.columns.block * (
        self.rows.block + len(_FACTORS) * self.columns.tile)


def weights(kernel: np.ndarray, tiling: Tiling) -> np.ndarray:
  """Transforms a kernel.

  Args:
    kernel: `[2 * reach + 1, 2 * reach + 1, channels, filters]`, with the reaches of the two axes.
    tiling: of the map.

  Returns:
    float32 `[tiling.products, channels, filters]`.
  """
  channels, filters = kernel.shape[2:]
  rows, columns = tiling
  # Networks correlate: the kernel is not turned round, so that its transform is conjugated.
  along_rows = rows.forward(tiling.half)[:, :len(kernel)].conj()
  along_columns = columns.forward(columns.tile)[:, :kernel.shape[1]].conj()
  result = np.empty([tiling.half, columns.tile, 3, channels, filters], np.float32)
  for first in range(0, channels, _CHUNK):
    part = slice(first, first + _CHUNK)
    values = np.tensordot(along_rows, kernel[:, :, part].astype(np.float64), 1)
    values = np.tensordot(along_columns, values, (1, 1)).swapaxes(0, 1)
    result[:, :, 0, part] = values.imag - values.real
    result[:, :, 1, part] = values.imag + values.real
    result[:, :, 2, part] = values.real
  return result.reshape(tiling.products, channels, filters)


def convolve(x: tf.Tensor, transformed: tf.Tensor, tiling: Tiling) -> tf.Tensor:
  """Convolves with stride 1 and zero padding.

  Args:
    x: float32 `[batch, height, width, channels]`; the batch may be unknown.
    transformed: what `weights` returned.
    tiling: of the map.

  Returns:
    float32 `[batch, height, width, filters]`, for an empty batch too.
  """
  rows, columns = tiling
  channels, filters = transformed.shape[1:]
  spectra = tf.matmul(_transform(x, tiling, channels), transformed)
  spectra = tf.reshape(spectra, [tiling.half, columns.tile * 3, -1])
  lines = tf.matmul(_column_inverse(tiling), spectra)
  # Without a first axis of size 1, LiteRT's converter writes a shape that LiteRT cannot read.
  blocks = tf.matmul(_row_inverse(tiling), tf.reshape(lines, [1, tiling.half * 2, -1]))
  blocks = tf.reshape(blocks, [rows.block, columns.block, -1, columns.tiles, filters])
  whole = tf.reshape(tf.transpose(blocks, [2, 0, 3, 1, 4]), [
      -1, rows.tiles * rows.block, columns.tiles * columns.block, filters])
  return whole[:, :rows.size, :columns.size]


def _transform(x: tf.Tensor, tiling: Tiling, channels: int) -> tf.Tensor:
  """Returns Gauss's factors of tiles: `[tiling.products, batch * tiles, channels]`."""
  rows, columns = tiling
  x = tf.reshape(tf.pad(x, [[0, 0], rows.padding, columns.padding, [0, 0]]), [
      -1, rows.block, columns.tiles + 1, columns.block, channels])
  # Positions inside of blocks stand first, so that a product transforms all tiles at once.
  x = tf.reshape(tf.transpose(x, [1, 3, 0, 2, 4]), [
      rows.block, -1, rows.tiles + 1, (columns.tiles + 1) * channels])
  x = tf.concat([x[:, :, :-1], x[:2 * rows.reach, :, 1:]], 0)
  lines = tf.matmul(_row_transform(tiling), tf.reshape(x, [rows.tile, -1]))
  lines = tf.reshape(
      lines, [tiling.half * 2, columns.block, -1, columns.tiles + 1, channels])
  lines = tf.concat([lines[:, :, :, :-1], lines[:, :2 * columns.reach, :, 1:]], 1)
  factors = tf.matmul(
      _column_transform(tiling), tf.reshape(lines, [tiling.half, 2 * columns.tile, -1]))
  return tf.reshape(factors, [tiling.products, -1, channels])


def _row_transform(tiling: Tiling) -> tf.Tensor:
  """Returns the transform of real numbers to complex ones: `[half * 2, tile]`."""
  matrix = tiling.rows.forward(tiling.half)
  return _constant(np.stack([matrix.real, matrix.imag], 1), 2 * tiling.half)


def _column_transform(tiling: Tiling) -> tf.Tensor:
  """Returns the transform of complex numbers to Gauss's factors: `[tile * 3, 2 * tile]`."""
  tile = tiling.columns.tile
  parts = _parts(tiling.columns.forward(tile))
  return _constant(np.einsum('po,foin->fpin', _FACTORS, parts), 3 * tile)


def _column_inverse(tiling: Tiling) -> tf.Tensor:
  """Returns the inverse from Gauss's products to complex numbers: `[2 * block, tile * 3]`."""
  columns = tiling.columns
  parts = _parts(columns.backward(columns.tile))
  return _constant(np.einsum('noif,ip->onfp', parts, _PRODUCTS), 2 * columns.block)


def _row_inverse(tiling: Tiling) -> tf.Tensor:
  """Returns the inverse from complex numbers to real ones: `[block, half * 2]`."""
  matrix = tiling.rows.backward(tiling.half)
  matrix[:, 1:-1] *= 2  # for the frequencies that are left out, the conjugates of these
  return _constant(np.stack([matrix.real, -matrix.imag], 2), tiling.rows.block)


def _parts(matrix: np.ndarray) -> np.ndarray:
  """Returns a complex matrix as a real one, `[rows, 2, 2, columns]`; parts of results first."""
  real, imaginary = matrix.real, matrix.imag
  return np.stack([np.stack([real, -imaginary], 1), np.stack([imaginary, real], 1)], 1)


def _constant(values: np.ndarray, rows: int) -> tf.Tensor:
  return tf.constant(values.reshape(rows, -1), tf.float32)
