"""Convolutions in two halves equal those of whole maps, and are for large maps of single images."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import halved_conv
import reference


@pytest.mark.parametrize('batch', [0, 1, 3])
@pytest.mark.parametrize('size, kernel, dilations', [
    ((8, 9), (3, 3), (1, 1)), ((7, 9), (5, 5), (1, 1)), ((9, 6), (3, 3), (2, 2)),
    ((5, 4), (5, 5), (3, 3)), ((1, 6), (3, 3), (1, 1)), ((8, 9), (1, 3), (1, 1))])
def test_halves_equal_the_whole_convolution(size, kernel, dilations, batch):
  random = np.random.default_rng(0)
  x = random.normal(size=[batch, *size, 3])
  weights = random.normal(size=[*kernel, 3, 4])
  convolve = tf.function(lambda maps: halved_conv.convolve(maps, tf.constant(weights), dilations),
                         input_signature=[tf.TensorSpec([None, *size, 3], tf.float64)])
  outputs = convolve(tf.constant(x))
  assert outputs.shape == (batch, *size, 4)
  if batch:
    expected = reference.conv2d(x, weights, np.zeros(4), stride=1, dilation=dilations[0])
    np.testing.assert_allclose(outputs, expected, 1e-10, 1e-10)


@pytest.mark.parametrize('shape, kernel, item_bytes, expected', [
    ((None, 128, 128, 256), (5, 5), 4, True),
    ((1, 128, 128, 256), (5, 5), 4, True),
    ((2, 128, 128, 256), (5, 5), 4, False),  # a batch that is known to be larger
    ((None, 128, 128, 256), (5, 5), 2, False),
    ((None, 128, 128, 256), (3, 3), 4, False),
    ((None, 128, 128, 100), (5, 5), 4, False),
    ((None, None, 128, 256), (5, 5), 4, False),
    ((None, 4096, 4096, 256), (1, 1), 4, False),
    ((None, 128, 128, 256), (4, 8), 4, False)])
def test_single_large_maps_are_worth_it(shape, kernel, item_bytes, expected):
  assert halved_conv.is_worth_it(shape, kernel, item_bytes) is expected
  assert halved_conv.is_worth_it(tf.TensorShape(shape), kernel, item_bytes) is expected
