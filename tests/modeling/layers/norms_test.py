"""Group norm and frozen batch norm against NumPy."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.layers import norms
import harness
import spies


def _inputs(dtype=np.float64, size=(4, 5), channels=16):
  rng = np.random.default_rng(0)
  return (rng.normal(size=[3, *size, channels]) * 2 + rng.normal(size=channels)).astype(dtype)


@pytest.mark.parametrize('size', [(4, 5), (1, 1)])
def test_group_norm_equals_numpy(size):
  layer = norms.GroupNorm(dtype='float64')
  inputs = _inputs(size=size)
  layer(inputs)
  spies.randomize(layer)
  expected = np.zeros_like(inputs)
  for image in range(3):
    for group in range(2):
      part = inputs[image, :, :, 8 * group:8 * group + 8]
      expected[image, :, :, 8 * group:8 * group + 8] = (
          (part - part.mean()) / np.sqrt(part.var() + 1e-5))
  expected = expected * layer.gamma.numpy() + layer.beta.numpy()
  np.testing.assert_allclose(layer(inputs), expected, 1e-10, 1e-10)


def test_group_norm_keeps_images_apart_and_statistics_precise():
  layer = norms.GroupNorm(initial_scale=0.3)
  inputs = _inputs(np.float32)
  together = layer(inputs)
  for image in range(3):
    np.testing.assert_allclose(layer(inputs[image:image + 1])[0], together[image], 1e-5, 1e-6)
  np.testing.assert_allclose(np.std(together), 0.3, rtol=0.01)
  # Sums of 16-bit numbers stop growing after some hundred of them.
  large = np.tile(inputs, [1, 30, 30, 1])
  for dtype, tolerance in ((tf.float16, 2e-3), (tf.bfloat16, 2e-2)):
    scale, shift = tf.ones([16]), tf.zeros([16])
    result = norms.group_norm(tf.cast(large, dtype), scale, shift, 2, 1e-5)
    assert result.dtype == dtype
    exact = norms.group_norm(tf.constant(large), scale, shift, 2, 1e-5)
    np.testing.assert_allclose(tf.cast(result, tf.float32), exact, tolerance, 8 * tolerance)


def test_constant_maps_stay_finite():
  inputs = tf.fill([1, 5, 5, 8], 3.3333)
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    result = norms.group_norm(inputs, tf.ones([8]), tf.zeros([8]), 1, 1e-5)
  assert np.all(np.isfinite(result))
  assert np.all(np.isfinite(tape.gradient(result, inputs)))


def test_layer_checks():
  harness.run_layer_checks(norms.GroupNorm, {'epsilon': 1e-4, 'initial_scale': 0.3},
                           _inputs(np.float32), 32)
  harness.run_layer_checks(norms.FrozenBatchNorm, {'momentum': 0.9, 'initial_scale': 0.3},
                           _inputs(np.float32), 32)


def test_groups_must_divide_the_channels():
  with pytest.raises(ValueError, match='groups of 8 channels and got 12'):
    norms.GroupNorm()(tf.zeros([1, 2, 2, 12]))


def test_frozen_batch_norm_equals_numpy_and_does_not_move_by_itself():
  layer = norms.FrozenBatchNorm(dtype='float64', momentum=0.75)
  inputs = _inputs()
  layer(inputs)
  spies.randomize(layer)
  mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
  expected = ((inputs - mean) / np.sqrt(variance + 1e-3) * layer.gamma.numpy()
              + layer.beta.numpy())
  np.testing.assert_allclose(layer(inputs, training=True), expected, 1e-10, 1e-10)
  np.testing.assert_array_equal(layer.moving_mean, mean)

  weights = layer.prepare(tf.float64, watch=True)
  other = _inputs(size=(2, 3)) + 1
  for features in (inputs, other):
    layer.run(weights, tf.constant(features))
  layer.update(weights)
  seen = np.concatenate([inputs.reshape(-1, 16), other.reshape(-1, 16)])
  np.testing.assert_allclose(layer.moving_mean, 0.75 * mean + 0.25 * seen.mean(0), 1e-10)
  np.testing.assert_allclose(layer.moving_variance, 0.75 * variance + 0.25 * seen.var(0), 1e-10)
