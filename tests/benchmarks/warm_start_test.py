"""The sequence of a warm start, and what a solve from the previous pyramid takes."""
import numpy as np
import pytest
import tensorflow as tf
import warm_start

from official_ext.modeling.decoders import ifpn


def test_a_crop_moves_over_the_image():
  image = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
  first, second, third = warm_start.crops(image, (20, 30), step=4, frames=3)
  np.testing.assert_array_equal(first, image[:20, :30])
  np.testing.assert_array_equal(second, image[2:22, 4:34])
  np.testing.assert_array_equal(third, image[4:24, 8:38])


def test_a_small_image_is_enlarged_until_the_last_crop_is_inside():
  frames = warm_start.crops(np.zeros([10, 50, 3], np.uint8), (20, 30), step=7, frames=4)
  assert {frame.shape for frame in frames} == {(20, 30, 3)}


def test_a_sequence_that_stands_still_needs_fewer_evaluations_from_the_previous_pyramid():
  decoder = ifpn.ImplicitFPN(
      {'3': [None, 8, 8, 4], '4': [None, 4, 4, 4]}, min_level=3, max_level=4, num_filters=16,
      solver={'tolerance': 0.02, 'inference_evaluations': 30}, dropout=0.0)
  still = {level: tf.random.stateless_normal([1, side, side, 4], [1, side])
           for level, side in (('3', 8), ('4', 4))}
  zero = {level: tf.zeros_like(values) for level, values in decoder(still).items()}
  cold, warm, time, difference = map(
      float, warm_start.measure(warm_start._neck(decoder), [still] * 4, zero).split())
  assert warm < cold and time > 0
  assert difference < 0.1
  same = {'3': np.ones([1, 2])}
  assert warm_start._distance({'3': np.array([[1.0, 2.0]])}, same) == pytest.approx(0.5**0.5)
