"""Reassembly against a sum for each pixel, with gradients, and the numbers of mmcv's operator."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import multiply_adds
from official_ext.ops import reassembly


def in_numpy(features, kernels, scale):
  """One sum for each pixel of the result."""
  batch, height, width, channels = features.shape
  size = round(kernels.shape[-1]**0.5)
  reach = size // 2
  padded = np.pad(features, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
  result = np.zeros([batch, scale * height, scale * width, channels])
  for row, column in np.ndindex(*result.shape[1:3]):
    y, x = row // scale, column // scale
    weights = kernels[:, y, x, row % scale * scale + column % scale].reshape(-1, size, size)
    result[:, row, column] = np.einsum(
        'bij,bijc->bc', weights, padded[:, y:y + size, x:x + size])
  return result


def _inputs(height=4, width=3, size=3, scale=2, dtype=np.float64):
  rng = np.random.default_rng(0)
  return (rng.normal(size=[2, height, width, 5]).astype(dtype),
          rng.normal(size=[2, height, width, scale**2, size**2]).astype(dtype))


@pytest.mark.parametrize('size, scale', [(1, 2), (3, 1), (3, 2), (5, 2), (3, 3), (7, 2)])
@pytest.mark.parametrize('shape', [(4, 3), (1, 1), (1, 6)])
def test_equals_numpy(size, scale, shape):
  features, kernels = _inputs(*shape, size, scale)
  np.testing.assert_allclose(reassembly.reassemble(tf.constant(features), tf.constant(kernels),
                                                   scale), in_numpy(features, kernels, scale),
                             1e-12, 1e-12)


@pytest.mark.parametrize('size', [1, 3, 5])
def test_gradients_are_the_slopes(size):
  features, kernels = _inputs(size=size)
  weights = np.random.default_rng(1).normal(size=[2, 8, 6, 5])
  inputs = [tf.constant(features), tf.constant(kernels)]
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    loss = tf.reduce_sum(weights * reassembly.reassemble(*inputs, 2))
  gradients = tape.gradient(loss, inputs)
  # The sums are linear in both inputs, so that a step of 1 along each number is exact.
  for index in (0, 1):
    expected = np.zeros_like((features, kernels)[index])
    for place in np.ndindex(*expected.shape):
      step = np.zeros_like(expected)
      step[place] = 1
      moved = (step, kernels) if index == 0 else (features, step)
      expected[place] = np.sum(weights * in_numpy(*moved, 2)) if place[0] == 0 else np.nan
    np.testing.assert_allclose(gradients[index][0], expected[0], 1e-10, 1e-10)


@pytest.mark.parametrize('dtype, tolerance', [(tf.float16, 0.01), (tf.bfloat16, 0.1)])
def test_half_precision_stays_near(dtype, tolerance):
  features, kernels = _inputs(size=5)
  outputs = reassembly.reassemble(tf.cast(features, dtype), tf.cast(kernels, dtype), 2)
  assert outputs.dtype == dtype
  np.testing.assert_allclose(
      tf.cast(outputs, tf.float64), in_numpy(features, kernels, 2), tolerance, tolerance)


def test_any_size_in_one_trace():
  traced = tf.function(
      lambda features, kernels: reassembly.reassemble(features, kernels, 2), autograph=False,
      input_signature=[tf.TensorSpec([None, None, None, 5], tf.float64),
                       tf.TensorSpec([None, None, None, 4, 9], tf.float64)])
  for shape in ((4, 3), (1, 7)):
    features, kernels = _inputs(*shape)
    np.testing.assert_allclose(traced(features, kernels), in_numpy(features, kernels, 2), 1e-12)
  assert traced(features[:0], kernels[:0]).shape == (0, 2, 14, 5)


def test_cost_is_that_of_the_sums():
  graph = tf.function(lambda features, kernels: reassembly.reassemble(features, kernels, 2),
                      autograph=False).get_concrete_function(
                          *(tf.TensorSpec(x.shape, x.dtype) for x in _inputs(size=5))).graph
  assert multiply_adds.count_graph(graph) == 2 * (8 * 6) * 25 * 5


@pytest.mark.parametrize('shape, text', [([1, 2, 2, 4, 8], 'odd squares'),
                                         ([1, 2, 2, 4, 16], 'odd squares'),
                                         ([1, 2, 2, 3, 9], 'with scale 2 there are 4')])
def test_wrong_kernels_are_refused(shape, text):
  with pytest.raises(ValueError, match=text):
    reassembly.reassemble(tf.zeros([1, 2, 2, 1]), tf.zeros(shape), 2)
