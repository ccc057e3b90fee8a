"""Resizing against a lookup per pixel, sampling against a sum over all pixels."""
import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import checks
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


@pytest.mark.parametrize('size, result', [((3, 4), (7, 7)), ((2, 2), (1, 1)), ((1, 1), (4, 4))])
def test_known_sizes_stay_known_without_a_known_batch(size, result):
  specs = [tf.TensorSpec([None, *pixels, 3]) for pixels in (size, result)]
  for resize in (sampling.resize_nearest, sampling.resize_bilinear):
    traced = tf.function(resize, autograph=False).get_concrete_function(*specs)
    assert traced.output_shapes.as_list() == [None, *result, 3]
  grid = tf.function(sampling.aligned_grid, autograph=False).get_concrete_function(*specs)
  assert grid.output_shapes.as_list() == [*result, 2]


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


RESIZES = [((4, 5), (8, 10)), ((4, 5), (7, 9)), ((4, 5), (1, 1)), ((1, 1), (3, 4)),
           ((1, 3), (2, 1)), ((7, 8), (3, 4)), ((5, 4), (5, 4)), ((3, 7), (13, 15))]


def _random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def _traced(function, *specs, compiled=False):
  return tf.function(function, autograph=False, jit_compile=compiled, input_signature=specs)


@pytest.mark.parametrize('size, result', RESIZES)
@pytest.mark.parametrize('dtype, tolerance', [
    ('float64', 1e-12), ('float32', 2e-6), ('float16', 4e-3), ('bfloat16', 3e-2)])
@pytest.mark.parametrize('compiled', [False, True])
def test_bilinear_resize_puts_corners_on_corners(size, result, dtype, tolerance, compiled):
  x = tf.cast(_random(2, *size, 3), dtype)
  target = tf.zeros([2, *result, 1])
  expected = reference.resize_bilinear(x.numpy().astype(np.float64), result)
  traced = _traced(sampling.resize_bilinear, tf.TensorSpec([None, None, None, 3], dtype),
                   tf.TensorSpec([None, None, None, None]), compiled=compiled)
  for call in (sampling.resize_bilinear, traced):
    resized = call(x, target)
    assert resized.dtype == dtype
    np.testing.assert_allclose(
        tf.cast(resized, tf.float64), expected, tolerance, tolerance)
    assert call(x[:0], target[:0]).shape == (0, *result, 3)


@pytest.mark.parametrize('size, result', RESIZES)
@pytest.mark.parametrize('dtype, tolerance', [('float64', 1e-12), ('float32', 2e-6)])
@pytest.mark.parametrize('compiled', [False, True])
def test_bilinear_resize_puts_edges_on_edges(size, result, dtype, tolerance, compiled):
  x, target = tf.cast(_random(2, *size, 3), dtype), tf.zeros([2, *result, 1])
  axes = [np.clip((np.arange(b) + 0.5) * a / b - 0.5, 0, a - 1) for a, b in zip(size, result)]
  grid = np.stack(np.meshgrid(*axes, indexing='ij'), -1)
  expected = reference.sample_bilinear(
      x.numpy().astype(np.float64), np.broadcast_to(grid, [2, *grid.shape]))
  resize = functools.partial(sampling.resize_bilinear, align_corners=False)
  traced = _traced(resize, tf.TensorSpec([None, None, None, 3], dtype),
                   tf.TensorSpec([None, None, None, None]), compiled=compiled)
  for call in (resize, traced):
    np.testing.assert_allclose(call(x, target), expected, tolerance, tolerance)
  stock = tf.image.resize(x, result).numpy()
  np.testing.assert_allclose(call(x, target), stock, 1e-5, 1e-5)


@pytest.mark.parametrize('compiled', [False, True])
def test_bilinear_resize_hands_gradients_back(compiled):
  """A linear map: the gradient of a weighted sum is the transposed map of the weights."""
  weights = _random(1, 7, 9, 2).astype(np.float32)

  @tf.function(autograph=False, jit_compile=compiled)
  def gradient(x):
    with tf.GradientTape() as tape:
      tape.watch(x)
      loss = tf.reduce_sum(weights * sampling.resize_bilinear(x, weights))
    return tape.gradient(loss, x)

  expected = np.zeros([1, 4, 5, 2])
  for index in np.ndindex(*expected.shape):
    one = np.zeros(expected.shape)
    one[index] = 1
    expected[index] = np.sum(weights * reference.resize_bilinear(one, (7, 9)))
  np.testing.assert_allclose(gradient(tf.zeros([1, 4, 5, 2])), expected, 1e-5, 1e-5)


def test_resizing_to_the_own_size_does_nothing():
  x = tf.constant(_random(1, 4, 5, 2))
  assert sampling.resize_bilinear(x, x) is x


@pytest.mark.parametrize('size, result', RESIZES)
def test_grid_is_where_a_resize_samples(size, result):
  x, target = tf.constant(_random(2, *size, 3)), tf.zeros([2, *result, 1])
  grid = sampling.aligned_grid(x, target)
  assert grid.dtype == tf.float64
  np.testing.assert_allclose(grid, reference.aligned_grid(size, result), 1e-15)
  for dtype, tolerance in ((tf.float64, 1e-12), (tf.float32, 1e-5)):
    features = tf.cast(x, dtype)
    positions = tf.tile(sampling.aligned_grid(features, target)[None], [2, 1, 1, 1])
    np.testing.assert_allclose(sampling.sample_bilinear(features, positions),
                               sampling.resize_bilinear(features, target), tolerance, tolerance)


def _positions(size=(4, 5)):
  """Returns positions inside, at and beyond all borders, and on whole pixels."""
  positions = np.random.default_rng(3).uniform(-2.5, np.array(size) + 1.5, [2, 6, 7, 2])
  last = np.array(size) - 1
  positions[0, 0] = [[0, 0], last, [0, last[1]], [last[0], 0], [-1, 0], [-0.5, 0], [1, 2]]
  positions[0, 1, :4] = [[last[0] + 0.25, 1], [last[0] + 1, 1], [1e12, 1], [-1e12, -1e12]]
  return positions


@pytest.mark.parametrize('padding', ['zeros', 'border'])
@pytest.mark.parametrize('size', [(4, 5), (1, 1), (1, 3)])
@pytest.mark.parametrize('dtype, tolerance', [
    ('float64', 1e-12), ('float32', 5e-6), ('float16', 4e-3), ('bfloat16', 3e-2)])
@pytest.mark.parametrize('compiled', [False, True])
def test_sampling_weighs_four_pixels(padding, size, dtype, tolerance, compiled):
  x = tf.cast(_random(2, *size, 3), dtype)
  exact = 'float64' if dtype == 'float64' else 'float32'
  positions = tf.cast(_positions(size), exact)
  expected = reference.sample_bilinear(
      x.numpy().astype(np.float64), positions.numpy().astype(np.float64), padding)
  traced = _traced(lambda x, positions: sampling.sample_bilinear(x, positions, padding),
                   tf.TensorSpec([None, None, None, 3], dtype),
                   tf.TensorSpec([None, None, None, 2], exact), compiled=compiled)
  for call in (lambda *args: sampling.sample_bilinear(*args, padding), traced):
    sampled = call(x, positions)
    assert sampled.dtype == dtype
    np.testing.assert_allclose(tf.cast(sampled, tf.float64), expected, tolerance, tolerance)
    assert call(x[:0], positions[:0]).shape == (0, 6, 7, 3)


def _gradients(x, positions, weights, padding):
  with tf.GradientTape() as tape:
    tape.watch([x, positions])
    loss = tf.reduce_sum(weights * sampling.sample_bilinear(x, positions, padding))
  return tape.gradient(loss, [x, positions])


@pytest.mark.parametrize('padding', ['zeros', 'border'])
def test_gradient_equals_finite_differences(padding):
  x, weights = _random(2, 4, 5, 3), _random(2, 6, 7, 3, seed=1)
  positions = _positions()
  positions = np.clip(positions, -3, 7)
  away = np.abs(positions - np.round(positions)) < 0.01
  positions = np.where(away, positions + 0.3, positions)

  def loss(x, positions):
    return np.sum(weights * reference.sample_bilinear(x, positions, padding))

  ours = _gradients(tf.constant(x), tf.constant(positions), weights, padding)
  for which, (values, gradient) in enumerate(zip((x, positions), ours)):
    numeric = np.zeros(values.shape)
    for index in np.ndindex(*values.shape):
      step = np.zeros(values.shape)
      step[index] = 1e-5
      ends = [loss(*((values + sign * step, positions) if which == 0 else
                     (x, values + sign * step))) for sign in (1, -1)]
      numeric[index] = (ends[0] - ends[1]) / 2e-5
    assert np.count_nonzero(numeric) > numeric.size / 3
    np.testing.assert_allclose(tf.convert_to_tensor(gradient), numeric, 1e-5, 1e-5)


@pytest.mark.parametrize('padding', ['zeros', 'border'])
def test_gradients_of_kernel_and_of_compiled_gathers_equal_those_in_float64(padding):
  x, weights = _random(2, 4, 5, 3), _random(2, 6, 7, 3, seed=1)
  positions = np.random.default_rng(5).uniform(-1.8, 5.8, [2, 6, 7, 2])
  positions = np.where(np.abs(positions - np.round(positions)) < 0.01, 0.3, positions)
  expected = _gradients(tf.constant(x), tf.constant(positions), weights, padding)
  single = [tf.constant(value, tf.float32) for value in (x, positions, weights)]
  for compiled in (False, True):
    ours = tf.function(_gradients, autograph=False, jit_compile=compiled)(*single, padding)
    for first, second in zip(ours, expected):
      np.testing.assert_allclose(
          tf.convert_to_tensor(first), tf.convert_to_tensor(second), 2e-5, 2e-5)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('compiled', [False, True])
def test_positions_that_are_no_numbers_read_nothing(value, compiled):
  positions = tf.constant(value, tf.float32, [1, 2, 2, 2])
  call = tf.function(sampling.sample_bilinear, autograph=False, jit_compile=compiled)
  np.testing.assert_array_equal(call(tf.ones([1, 4, 5, 3]), positions), np.zeros([1, 2, 2, 3]))


def test_kernels_are_used_in_plain_graphs_only():
  """Functions that a compiled function calls get no kernel either, because XLA has none."""
  x, positions = tf.ones([1, 4, 5, 3]), tf.zeros([1, 2, 2, 2])

  def both(x, positions):
    return sampling.sample_bilinear(x, positions), sampling.resize_bilinear(x, positions)

  plain = tf.function(both, autograph=False)
  kinds = {op.type for op in plain.get_concrete_function(x, positions).graph.get_operations()}
  assert {'CropAndResize', 'ResizeBilinear'} <= kinds
  compiled = tf.function(
      lambda *args: tf.function(both, autograph=False)(*args) + tf.cond(
          tf.reduce_sum(x) > 0, lambda: both(*args), lambda: both(*args)),
      autograph=False, jit_compile=True)
  for first, second in zip(compiled(x, positions), 2 * plain(x, positions)):
    np.testing.assert_allclose(first, second, 1e-6)


def test_wrong_arguments_are_named():
  x, positions = tf.ones([1, 4, 5, 3]), tf.zeros([1, 2, 2, 2])
  with pytest.raises(
      checks.ArgumentError, match="padding is 'reflect'; allowed are 'zeros', 'border'"):
    sampling.sample_bilinear(x, positions, 'reflect')
  with pytest.raises(checks.ArgumentError, match='positions has dtype bfloat16.*float32'):
    sampling.sample_bilinear(x, tf.cast(positions, tf.bfloat16))
