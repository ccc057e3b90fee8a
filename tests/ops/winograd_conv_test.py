"""A convolution with fewer multiplications is the convolution, whatever the size of the map."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.ops import winograd_conv

CHANNELS, FILTERS = 3, 5


def _direct(x, kernel, padding):
  """Convolves tap by tap, in float64."""
  padded = np.pad(x.astype(np.float64), [(0, 0), (padding,) * 2, (padding,) * 2, (0, 0)])
  height, width = (size - 2 for size in padded.shape[1:3])
  return sum(padded[:, row:row + height, column:column + width] @ kernel[row, column]
             for row in range(3) for column in range(3))


@pytest.mark.parametrize('size, padding', [
    ((8, 12), 1),  # whole tiles
    ((10, 14), 0),
    ((7, 13), 1), ((9, 6), 0),  # a rest at the end of rows and columns
    ((1, 2), 1), ((3, 3), 0)])  # less than a tile
@pytest.mark.parametrize('batch', [0, 1, 3])
def test_equals_the_direct_convolution(size, padding, batch):
  random = np.random.default_rng(0)
  kernel = random.normal(size=[3, 3, CHANNELS, FILTERS])
  x = random.normal(size=[batch, *size, CHANNELS]).astype(np.float32)
  own = winograd_conv.Map(*size, padding=padding)
  weights = winograd_conv.weights(kernel)
  assert weights.shape == (36, CHANNELS, FILTERS) and weights.dtype == np.float32

  @tf.function(input_signature=[tf.TensorSpec([None, *size, CHANNELS])], autograph=False)
  def run(x):
    tiles = winograd_conv.tiles(x, own)
    assert tiles.shape.as_list() == [36, None, CHANNELS]
    return winograd_conv.multiply(tiles, tf.constant(weights), own)

  actual, expected = run(x), _direct(x, kernel, padding)
  assert actual.shape == expected.shape == (batch, *own.results, FILTERS)
  if batch:
    assert np.max(np.abs(actual - expected)) < 2e-6 * np.max(np.abs(expected))


def test_one_tile_takes_a_quarter_of_the_multiplications():
  rows, columns = winograd_conv.Map(13, 8, 1).tiles
  assert (rows, columns) == (4, 2)
  results = 16 * rows * columns
  assert winograd_conv.PRODUCTS * rows * columns == 9 * results / 4


@pytest.mark.parametrize('shape, filters, is_worth', [
    ((1, 64, 80, 128), 128, True), ((1, 100, 168, 256), 256, True), ((1, 64, 64, 64), 64, True),
    ((1, 16, 16, 512), 512, True), ((1, 64, 80, 128), 4, False), ((1, 64, 80, 16), 16, False),
    ((1, 16, 20, 128), 128, False), ((8, 16, 20, 128), 128, True), ((1, 8, 8, 64), 64, False),
    ((1, 20, 24, 128), 128, False)])  # 0.88 of the time
def test_large_maps_with_many_channels_are_worth_it(shape, filters, is_worth):
  saved = winograd_conv.saving(shape, winograd_conv.Map(*shape[1:3], padding=1), filters)
  assert (saved > 0) == is_worth
  assert saved < 0.75 * shape[0] * shape[1] * shape[2] * 9 * shape[3] * filters


def test_the_saved_share_is_that_of_all_maps_where_exports_are_expected():
  maps = [tf_keras.Input([*size, 128]) for size in ((64, 80), (32, 40), (4, 5))]
  assert winograd_conv.saved_share(maps) == 0
  with winograd_conv.expected() as found:
    assert winograd_conv.saved_share([maps[2]]) == 0
    assert winograd_conv.saved_share([tf_keras.Input([64, 80, 128], dtype=tf.bfloat16)]) == 0
    assert not found.shares
    saved = sum(winograd_conv.saving((1, *size, 128), winograd_conv.Map(*size, 1), 128)
                for size in ((64, 80), (32, 40)))
    assert winograd_conv.saved_share(maps) == saved / (9 * 128**2 * (5120 + 1280 + 20))
    assert 0.3 < winograd_conv.saved_share(maps) < 0.75
    assert winograd_conv.saved_share([tf_keras.Input([None, 80, 128])]) == 0
  assert found.shares and set(found.shares) == {saved / (9 * 128**2 * (5120 + 1280 + 20))}
  assert winograd_conv.saved_share(maps) == 0


def test_transformed_kernels_are_counted_where_exports_are_expected():
  kernel = tf.ones([3, 3, 4, 6])
  winograd_conv.weights_in_graph(kernel)
  with winograd_conv.expected() as found:
    sizes = [winograd_conv.weights_in_graph(kernel).numpy().nbytes for _ in range(2)]
  winograd_conv.weights_in_graph(kernel)
  assert found.bytes == sum(sizes) == 2 * 36 * 4 * 6 * 4
