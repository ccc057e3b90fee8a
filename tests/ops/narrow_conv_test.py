"""Convolutions to few channels against plain NumPy."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import narrow_conv
import reference


@pytest.mark.parametrize('sizes, channels, filters', [
    ([(2, 5, 7)], 6, 1), ([(1, 1, 1)], 3, 2), ([(3, 4, 1), (3, 1, 3)], 2, 3),
    ([(0, 4, 4), (0, 2, 2)], 2, 1), ([(2, 4, 6), (2, 2, 3), (2, 1, 2)], 4, 2)])
@pytest.mark.parametrize('is_activated', [False, True])
def test_equals_the_convolution(sizes, channels, filters, is_activated):
  rng = np.random.default_rng(0)
  maps = [rng.normal(size=[*size, channels]) for size in sizes]
  kernel, bias = rng.normal(size=[3, 3, channels, filters]), rng.normal(size=filters)
  factors = np.arange(1.0, len(maps) + 1)
  # The last map lacks the first filter, and the first map the last one.
  own = [range(int(filters > 1 and number == len(maps) - 1),
               filters - int(filters > 1 and number == 0 < len(maps) - 1))
         for number in range(len(maps))]

  def convolve(maps):
    # A factor that differs from map to map.
    def activation(values, map_of_row):
      return tf.tanh(values) * tf.gather(factors, map_of_row)[:, None]
    return narrow_conv.conv2d(maps, tf.constant(kernel), tf.constant(bias), own,
                              activation if is_activated else None)

  of_any_size = tf.function(
      convolve, input_signature=[[tf.TensorSpec([None, None, None, channels], tf.float64)] *
                                 len(maps)])
  for results in (convolve(list(map(tf.constant, maps))), of_any_size(maps)):
    for result, x, numbers, factor in zip(results, maps, own, factors, strict=True):
      expected = (reference.conv2d(x, kernel) + bias)[..., numbers.start:numbers.stop]
      if is_activated:
        expected = np.tanh(expected) * factor
      assert [value.shape for value in result] == [(*x.shape[:3], 1)] * len(numbers)
      np.testing.assert_allclose(np.concatenate(result, -1), expected, 1e-12, 1e-12)
