"""Convolutions to few channels against plain NumPy."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import narrow_conv
import reference


@pytest.mark.parametrize('shape, filters', [
    ((2, 5, 7, 6), 1), ((1, 1, 1, 3), 2), ((3, 4, 1, 2), 3), ((0, 4, 4, 2), 1)])
def test_equals_the_convolution(shape, filters):
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=shape), rng.normal(size=[3, 3, shape[-1], filters])
  bias = rng.normal(size=filters)
  expected = reference.conv2d(x, kernel) + bias
  np.testing.assert_allclose(narrow_conv.conv2d(*map(tf.constant, (x, kernel, bias))), expected,
                             1e-12, 1e-12)
  of_any_size = tf.function(
      lambda x: narrow_conv.conv2d(x, tf.constant(kernel), tf.constant(bias)),
      input_signature=[tf.TensorSpec([None, None, None, shape[-1]], tf.float64)])
  np.testing.assert_allclose(of_any_size(x), expected, 1e-12, 1e-12)
