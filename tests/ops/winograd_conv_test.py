"""A convolution with fewer multiplications is the convolution, whatever the size of the map."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import winograd_conv

CHANNELS, FILTERS = 3, 5


def _direct(x, kernel, padding, rate=1):
  """Convolves tap by tap, in float64."""
  padded = np.pad(x.astype(np.float64), [(0, 0), *((zeros, zeros) for zeros in padding), (0, 0)])
  side = len(kernel)
  height, width = (size - rate * (side - 1) for size in padded.shape[1:3])
  return sum(padded[:, rate * row:rate * row + height, rate * column:rate * column + width]
             @ kernel[row, column] for row in range(side) for column in range(side))


def _check(batch, size, side, padding, rate=1, channels=CHANNELS, filters=FILTERS):
  """Compares with the definition; returns the largest error as a share of the largest value."""
  random = np.random.default_rng(0)
  kernel = random.normal(size=[side, side, channels, filters])
  x = random.normal(size=[batch, *size, channels]).astype(np.float32)
  padding = padding if isinstance(padding, tuple) else (padding, padding)
  own = winograd_conv.Map(*size, padding, winograd_conv.TILES[side], rate)
  weights = winograd_conv.weights(kernel)
  products = {3: 36, 5: 64}[side]
  assert weights.shape == (products, channels, filters) and weights.dtype == np.float32

  @tf.function(input_signature=[tf.TensorSpec([None, *size, channels])], autograph=False)
  def run(x):
    tiles = winograd_conv.tiles(x, own)
    parts = winograd_conv.number_of_parts(channels, own.tile)
    assert tiles.shape.as_list() == [products, None, channels // parts]
    return winograd_conv.multiply(tiles, tf.constant(weights), own)

  actual, expected = run(x), _direct(x, kernel, padding, rate)
  assert actual.shape == expected.shape == (batch, *own.results, filters)
  return np.max(np.abs(actual - expected)) / np.max(np.abs(expected)) if batch else 0.0


@pytest.mark.parametrize('size, padding', [
    ((8, 12), 1),  # whole tiles
    ((10, 14), 0),
    ((7, 13), 1), ((9, 6), 0),  # a rest at the end of rows and columns
    ((1, 2), 1), ((3, 3), 0)])  # less than a tile
@pytest.mark.parametrize('batch', [0, 1, 3])
def test_equals_the_direct_convolution(size, padding, batch):
  assert _check(batch, size, 3, padding) < 2e-6


@pytest.mark.parametrize('size, side, padding, rate', [
    ((8, 12), 5, 2, 1), ((9, 13), 5, 0, 1), ((6, 5), 5, 0, 1), ((1, 2), 5, 2, 1),
    ((16, 24), 5, 4, 2),  # whole tiles of every lattice
    ((17, 11), 5, 4, 2), ((14, 19), 5, 0, 3), ((2, 5), 5, 6, 3),  # lattices of several sizes
    ((13, 10), 3, 2, 2), ((9, 8), 3, 0, 3),
    ((14, 10), 5, (0, 4), 2)])  # half of a map, with the rows of the other half
@pytest.mark.parametrize('batch', [0, 1, 3])
def test_large_and_dilated_kernels_equal_the_direct_convolution(size, side, padding, rate, batch):
  assert _check(batch, size, side, padding, rate) < (1e-5 if side == 5 else 2e-6)


def test_rounding_errors_do_not_grow_with_the_channels():
  errors = [_check(1, (24, 24), 5, 2, channels=channels, filters=16) for channels in (128, 1000)]
  assert max(errors) < 1e-5


def test_tiles_take_a_quarter_of_the_multiplications_and_less():
  rows, columns = winograd_conv.Map(13, 8, (1, 1)).tiles
  assert (rows, columns) == (4, 2)
  results = 16 * rows * columns
  assert winograd_conv.THREE.products * rows * columns == 9 * results / 4
  own = winograd_conv.Map(16, 24, (4, 4), winograd_conv.FIVE, 2)
  assert (own.tiles, own.number_of_tiles) == ((2, 3), 24)
  assert winograd_conv.FIVE.products * own.number_of_tiles == 4 * 16 * 24  # of 25


@pytest.mark.parametrize('shape, filters, rate, is_worth', [
    ((1, 64, 64, 256), 256, 1, True), ((1, 64, 64, 256), 256, 3, True),
    ((1, 16, 16, 1024), 256, 1, True), ((1, 16, 16, 1024), 256, 3, False),  # 1.1 of the time
    ((1, 8, 8, 2048), 256, 1, False), ((1, 32, 32, 64), 64, 1, False),
    ((4, 32, 32, 64), 64, 1, True)])
def test_large_kernels_are_worth_it_on_smaller_maps(shape, filters, rate, is_worth):
  own = winograd_conv.Map(*shape[1:3], (2 * rate, 2 * rate), winograd_conv.FIVE, rate)
  saved = winograd_conv.saving(shape, own, filters)
  assert (saved > 0) == is_worth
  assert saved < 0.84 * np.prod(shape) * 25 * filters


@pytest.mark.parametrize('shape, filters, is_worth', [
    ((1, 64, 80, 128), 128, True), ((1, 100, 168, 256), 256, True), ((1, 64, 64, 64), 64, True),
    ((1, 16, 16, 512), 512, True), ((1, 64, 80, 128), 4, False), ((1, 64, 80, 16), 16, False),
    ((1, 16, 20, 128), 128, False), ((8, 16, 20, 128), 128, True), ((1, 8, 8, 64), 64, False),
    ((1, 20, 24, 128), 128, False)])  # 0.88 of the time
def test_large_maps_with_many_channels_are_worth_it(shape, filters, is_worth):
  saved = winograd_conv.saving(shape, winograd_conv.Map(*shape[1:3], (1, 1)), filters)
  assert (saved > 0) == is_worth
  assert saved < 0.75 * shape[0] * shape[1] * shape[2] * 9 * shape[3] * filters
