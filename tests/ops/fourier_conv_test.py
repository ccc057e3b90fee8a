"""A convolution in the Fourier domain is the convolution, whatever the sizes of map and tiles."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import fourier_conv

CHANNELS, FILTERS = 3, 5


def _direct(x, kernel):
  """Convolves tap by tap, in float64."""
  rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
  padded = np.pad(x.astype(np.float64), [(0, 0), (rows, rows), (columns, columns), (0, 0)])
  return sum(padded[:, row:row + x.shape[1], column:column + x.shape[2]] @ kernel[row, column]
             for row in range(kernel.shape[0]) for column in range(kernel.shape[1]))


@pytest.mark.parametrize('size, reaches, tiles', [
    ((24, 36), (6, 6), (24, 24)),  # whole blocks
    ((25, 13), (6, 6), (24, 28)),
    ((5, 3), (6, 6), (24, 32)),  # less than a tile, and than the kernel
    ((33, 16), (1, 3), (16, 20)),
    ((7, 40), (0, 2), (16, 16))])
@pytest.mark.parametrize('batch', [1, 3, 8])
def test_equals_the_direct_convolution(size, reaches, tiles, batch):
  random = np.random.default_rng(0)
  kernel = random.normal(size=[2 * reaches[0] + 1, 2 * reaches[1] + 1, CHANNELS, FILTERS])
  x = random.normal(size=[batch, *size, CHANNELS]).astype(np.float32)
  tiling = fourier_conv.Tiling(*map(fourier_conv.Axis, size, reaches, tiles))
  weights = fourier_conv.weights(kernel, tiling)
  assert weights.shape == (tiling.products, CHANNELS, FILTERS) and weights.dtype == np.float32
  run = tf.function(lambda x: fourier_conv.convolve(x, tf.constant(weights), tiling),
                    input_signature=[tf.TensorSpec([None, *size, CHANNELS])], autograph=False)
  expected = _direct(x, kernel)
  assert run(x).shape == expected.shape
  assert np.max(np.abs(run(x) - expected)) < 2e-6 * np.max(np.abs(expected))


def test_many_channels_are_transformed_in_parts(monkeypatch):
  kernel = np.random.default_rng(0).normal(size=[3, 3, 7, 2])
  tiling = fourier_conv.Tiling(fourier_conv.Axis(9, 1, 16), fourier_conv.Axis(9, 1, 16))
  expected = fourier_conv.weights(kernel, tiling)
  monkeypatch.setattr(fourier_conv, '_CHUNK', 3)
  np.testing.assert_array_equal(fourier_conv.weights(kernel, tiling), expected)


def test_an_empty_batch_has_the_shape_of_the_result():
  tiling = fourier_conv.Tiling(fourier_conv.Axis(20, 2, 16), fourier_conv.Axis(9, 2, 16))
  weights = tf.zeros([tiling.products, CHANNELS, FILTERS])
  assert fourier_conv.convolve(tf.zeros([0, 20, 9, CHANNELS]), weights, tiling).shape == (
      0, 20, 9, FILTERS)


def test_counts_are_those_of_the_matrix_products():
  tiling = fourier_conv.Tiling(fourier_conv.Axis(20, 6, 24), fourier_conv.Axis(20, 6, 28))
  counted = [np.prod(matrix(tiling).shape) * times for matrix, times in (
      (fourier_conv._row_transform, 28), (fourier_conv._column_transform, tiling.half),
      (fourier_conv._column_inverse, tiling.half), (fourier_conv._row_inverse, 16))]
  assert tiling.transform == sum(counted[:2]) and tiling.inverse == sum(counted[2:])
  assert tiling.products == 13 * 28 * 3
