"""Nearest and bilinear resizing, against a lookup per pixel."""
import itertools

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import sampling
import reference

PAIRS = [(1, 1), (1, 2), (2, 3), (3, 5), (4, 8), (5, 9), (7, 7), (3, 7), (5, 4), (2, 9)]


@pytest.mark.parametrize('rows, columns', list(itertools.product(PAIRS, PAIRS[:6])))
def test_every_pixel_looks_up_floor_of_its_share(rows, columns):
  features = np.random.default_rng(0).normal(size=[2, rows[0], columns[0], 3])
  target = np.zeros([2, rows[1], columns[1], 5])
  expected = reference.resize_nearest(features, (rows[1], columns[1]))
  np.testing.assert_array_equal(
      sampling.resize_nearest(tf.constant(features), tf.constant(target)), expected)


@pytest.mark.parametrize('size, result', [((3, 4), (5, 7)), ((3, 4), (6, 8)), ((3, 4), (7, 7))])
def test_unknown_sizes_give_the_same(size, result):
  features = np.random.default_rng(0).normal(size=[2, *size, 3])
  traced = tf.function(sampling.resize_nearest, autograph=False, input_signature=[
      tf.TensorSpec([None, None, None, 3], tf.float64),
      tf.TensorSpec([None, None, None, None], tf.float64)])
  np.testing.assert_array_equal(
      traced(features, np.zeros([2, *result, 1])), reference.resize_nearest(features, result))
  assert traced(features[:0], np.zeros([0, *result, 1])).shape == (0, *result, 3)


@pytest.mark.parametrize('size', [(5, 7), (7, 7)])
def test_gradient_counts_how_often_a_pixel_is_used(size):
  features = tf.constant(np.random.default_rng(0).normal(size=[1, 3, 4, 2]))
  weights = np.random.default_rng(1).normal(size=[1, *size, 2])
  with tf.GradientTape() as tape:
    tape.watch(features)
    loss = tf.reduce_sum(weights * sampling.resize_nearest(features, tf.zeros([1, *size, 1])))
  expected = np.zeros(features.shape)
  for row, column in np.ndindex(*size):
    expected[:, row * 3 // size[0], column * 4 // size[1]] += weights[:, row, column]
  np.testing.assert_allclose(tape.gradient(loss, features), expected, 1e-12)


@pytest.mark.parametrize('dtype', [tf.float16, tf.bfloat16, tf.float32])
def test_keeps_the_dtype(dtype):
  features = tf.cast(tf.reshape(tf.range(6), [1, 2, 3, 1]), dtype)
  for size in [(3, 5), (4, 7)]:
    resized = sampling.resize_nearest(features, tf.zeros([1, *size, 1]))
    assert resized.dtype == dtype
    np.testing.assert_array_equal(
        tf.cast(resized, tf.float32),
        reference.resize_nearest(tf.cast(features, tf.float32).numpy(), size))


def _bilinear(features, size):
  """Aligned corners, pixel by pixel."""
  result = np.zeros([features.shape[0], *size, features.shape[3]])
  for row, column in np.ndindex(*size):
    weights = []
    for index, n_in, n_out in zip((row, column), features.shape[1:3], size):
      place = index * (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0
      weights.append(np.maximum(1 - np.abs(np.arange(n_in) - place), 0))
    result[:, row, column] = np.einsum('h,w,nhwc->nc', *weights, features)
  return result


@pytest.mark.parametrize('size, result', [
    ((3, 4), (5, 7)), ((1, 1), (3, 2)), ((5, 3), (2, 1)), ((4, 6), (4, 6)), ((4, 6), (4, 9))])
@pytest.mark.parametrize('is_known', [True, False])
def test_bilinear_puts_corners_on_corners(size, result, is_known):
  features = np.random.default_rng(0).normal(size=[2, *size, 3])
  shapes = ([2, *size, 3], [2, *result, 1]) if is_known else ([None] * 3 + [3], [None] * 4)
  traced = tf.function(sampling.resize_bilinear, autograph=False, input_signature=[
      tf.TensorSpec(shape, tf.float64) for shape in shapes])
  resized = traced(features, np.zeros([2, *result, 1]))
  np.testing.assert_allclose(resized, _bilinear(features, result), 1e-12, 1e-12)
  if min(result) > 1:
    np.testing.assert_array_equal(resized[:, ::result[0] - 1, ::result[1] - 1],
                                  features[:, [0, -1]][:, :, [0, -1]])
  if not is_known:
    assert traced(features[:0], np.zeros([0, *result, 1])).shape == (0, *result, 3)


def test_bilinear_is_the_identity_for_equal_sizes_and_keeps_the_dtype():
  features = tf.random.stateless_normal([1, 4, 5, 2], [1, 2])
  assert sampling.resize_bilinear(features, tf.zeros([1, 4, 5, 1])) is features
  for dtype, tolerance in ((tf.float16, 2e-3), (tf.bfloat16, 2e-2)):
    resized = sampling.resize_bilinear(tf.cast(features, dtype), tf.zeros([1, 7, 9, 1]))
    assert resized.dtype == dtype
    exact = sampling.resize_bilinear(features, tf.zeros([1, 7, 9, 1]))
    np.testing.assert_allclose(tf.cast(resized, tf.float32), exact, tolerance, 2 * tolerance)


def test_bilinear_gradient_is_the_transposed_matrix():
  features = tf.constant(np.random.default_rng(0).normal(size=[1, 3, 4, 2]))
  weights = np.random.default_rng(1).normal(size=[1, 5, 7, 2])
  with tf.GradientTape() as tape:
    tape.watch(features)
    loss = tf.reduce_sum(weights * sampling.resize_bilinear(features, tf.zeros([1, 5, 7, 1])))
  expected = np.zeros(features.shape)
  for index in np.ndindex(*features.shape):
    unit = np.zeros(features.shape)
    unit[index] = 1
    expected[index] = np.sum(weights * _bilinear(unit, (5, 7)))
  np.testing.assert_allclose(tape.gradient(loss, features), expected, 1e-10, 1e-12)
