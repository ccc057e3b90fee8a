"""Group norm and batch norms with own statistics, against NumPy and against Keras."""
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import norms
from official_ext.ops import checks
import harness
import reference
import spies

TESTS = pathlib.Path(__file__).resolve().parents[2]
FEATURES = np.random.default_rng(0).normal(2, 3, [5, 4, 3, 6])


def _inputs(dtype=np.float64, size=(4, 5), channels=16):
  rng = np.random.default_rng(0)
  return (rng.normal(size=[3, *size, channels]) * 2 + rng.normal(size=channels)).astype(dtype)


def _group_normalized(inputs, num_groups):
  """Group norm over all positions without scale and shift, in float64 NumPy."""
  mask, channels = np.ones([*inputs.shape[:3], 1], bool), inputs.shape[-1]
  return reference.group_norm(inputs, mask, np.ones(channels), np.zeros(channels), num_groups)


@pytest.mark.parametrize('size', [(4, 5), (1, 1)])
@pytest.mark.parametrize('group_size, num_groups', [(8, 2), (4, 4), (None, 16)])
def test_group_norm_equals_numpy(size, group_size, num_groups):
  layer = norms.GroupNorm(group_size=group_size, dtype='float64')
  inputs = _inputs(size=size)
  layer(inputs)
  spies.randomize(layer)
  expected = np.zeros_like(inputs)
  members = 16 // num_groups
  for image in range(3):
    for group in range(num_groups):
      channels = slice(members * group, members * (group + 1))
      part = inputs[image, :, :, channels]
      expected[image, :, :, channels] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
  expected = expected * layer.gamma.numpy() + layer.beta.numpy()
  np.testing.assert_allclose(layer(inputs), expected, 1e-10, 1e-10)


@pytest.mark.parametrize('ratio, tolerance', [(30, 1e-5), (1000, 5e-4)])
def test_group_norm_is_exact_where_the_mean_is_much_larger_than_the_deviation(ratio, tolerance):
  """The mean of squares less the square of the mean is off by 2.5e-5 and 0.19 in the variance."""
  inputs = (np.random.default_rng(0).normal(size=[2, 50, 60, 16]) + ratio).astype(np.float32)
  expected = _group_normalized(inputs, 2)
  outputs = norms.GroupNorm()(inputs)
  np.testing.assert_allclose(outputs, expected, 0, tolerance)
  # The deviation of the result is the error of the variance alone, without the mean's.
  np.testing.assert_allclose(np.std(outputs, dtype=np.float64), np.std(expected), 1e-6)


def test_group_norm_keeps_images_apart_and_statistics_precise():
  layer = norms.GroupNorm(initial_scale=0.3)
  inputs = _inputs(np.float32)
  together = layer(inputs)
  for image in range(3):
    np.testing.assert_allclose(layer(inputs[image:image + 1])[0], together[image], 1e-5, 1e-6)
  np.testing.assert_allclose(np.std(together), 0.3, rtol=0.01)
  # Sums of 16-bit numbers stop growing after some hundred of them.
  large = np.tile(inputs, [1, 30, 30, 1])
  weights = layer.prepare(tf.float32)
  exact = layer.run(weights, tf.constant(large))
  for dtype, tolerance in ((tf.float16, 2e-3), (tf.bfloat16, 2e-2)):
    result = layer.run(weights, tf.cast(large, dtype))
    assert result.dtype == dtype
    np.testing.assert_allclose(tf.cast(result, tf.float32), exact, tolerance, 8 * tolerance)


@pytest.mark.parametrize('policy', ['mixed_float16', 'mixed_bfloat16'])
def test_scale_and_shift_of_group_norm_are_not_rounded_under_mixed_precision(policy):
  layer = norms.GroupNorm(dtype=policy)
  assert layer(_inputs(np.float32)).dtype == layer.compute_dtype
  weights = layer.prepare(tf.as_dtype(layer.compute_dtype))
  assert weights.scale.dtype == weights.shift.dtype == tf.float32


@pytest.mark.parametrize('policy', ['float16', 'bfloat16', 'mixed_float16', 'mixed_bfloat16'])
def test_group_norm_called_by_itself_computes_in_float32_under_every_policy(policy):
  inputs, layer = _inputs(np.float32), norms.GroupNorm(dtype=policy)
  with tf.GradientTape() as tape:
    outputs = layer(inputs)
  assert outputs.dtype == tf.as_dtype(layer.compute_dtype)
  unit = {tf.float16: 1e-3, tf.bfloat16: 8e-3}[outputs.dtype]
  rounded = tf.cast(tf.cast(inputs, outputs.dtype), tf.float32)
  np.testing.assert_allclose(
      tf.cast(outputs, tf.float32), norms.GroupNorm()(rounded), unit, unit)
  assert all(gradient is not None for gradient in tape.gradient(outputs, layer.variables))


def test_constant_maps_stay_finite():
  layer = norms.GroupNorm()
  inputs = tf.fill([1, 5, 5, 8], 3.3333)
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    result = layer(inputs)
  assert np.all(np.isfinite(result))
  assert np.all(np.isfinite(tape.gradient(result, inputs)))


def test_layer_checks():
  harness.run_layer_checks(norms.GroupNorm, {'epsilon': 1e-4, 'initial_scale': 0.3},
                           _inputs(np.float32), 32)
  harness.run_layer_checks(norms.GroupNorm, {'group_size': None}, _inputs(np.float32, (2, 2), 6),
                           12)
  harness.run_layer_checks(norms.FrozenBatchNorm, {'momentum': 0.9, 'initial_scale': 0.3},
                           _inputs(np.float32), 32)


@pytest.mark.parametrize('group_size, channels', [(8, 12), (0, 8), (16, 8)])
def test_groups_must_divide_the_channels(group_size, channels):
  message = f'groups of {group_size} channels and got {channels}'
  with pytest.raises(checks.ArgumentError, match=message):
    norms.GroupNorm(group_size=group_size)(tf.zeros([1, 2, 2, channels]))


@pytest.mark.parametrize('cls', [norms.GroupNorm, norms.FrozenBatchNorm, norms.PresenceNorm])
@pytest.mark.parametrize('shape', [[2, 16], [2, 5, 16], [2, 3, 5, 5, 16], [2, 5, 5, None]])
def test_a_norm_takes_maps_alone(cls, shape):
  with pytest.raises(checks.ArgumentError, match=r'features has the shape .*\[batch, height'):
    cls().build(tf.TensorShape(shape))


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

  weights = layer.watch(layer.prepare(tf.float64))
  other = _inputs(size=(2, 3)) + 1
  np.testing.assert_allclose(layer.run(weights, tf.constant(inputs)), expected, 1e-10, 1e-10)
  layer.run(weights, tf.constant(other))
  layer.update(weights)
  seen = np.concatenate([inputs.reshape(-1, 16), other.reshape(-1, 16)])
  np.testing.assert_allclose(layer.moving_mean, 0.75 * mean + 0.25 * seen.mean(0), 1e-10)
  np.testing.assert_allclose(layer.moving_variance, 0.75 * variance + 0.25 * seen.var(0), 1e-10)


def _presence_norm(**options):
  layer = norms.PresenceNorm(**{'dtype': 'float64', **options})
  layer.build([None, None, None, 6])
  rng = np.random.default_rng(1)
  layer.set_weights([rng.uniform(0.5, 2, 6) for _ in range(4)])
  return layer


@pytest.mark.parametrize('present', [[1, 0, 0, 1, 1], [0, 0, 1, 0, 0], [0] * 5, [1] * 5])
def test_presence_norm_equals_numpy(present):
  layer = _presence_norm(momentum=0.8, epsilon=0.01)
  gamma, beta, mean, variance = layer.get_weights()
  seen = FEATURES[np.array(present, bool)].reshape(-1, 6)
  now = (seen.mean(0), seen.var(0)) if len(seen) else (mean, variance)
  outputs = layer(FEATURES, np.array(present, bool), training=True)
  expected = gamma * (FEATURES - now[0]) / np.sqrt(now[1] + 0.01) + beta
  np.testing.assert_allclose(outputs, expected, 1e-10, 1e-10)
  for old, new, seen_now in zip((mean, variance), layer.get_weights()[2:], now):
    np.testing.assert_allclose(new, 0.8 * old + 0.2 * seen_now, 1e-12)


@pytest.mark.parametrize('present', [None, tf.ones([5], tf.bool)])
def test_presence_norm_equals_keras_where_all_are_present(present):
  layer = _presence_norm()
  keras = tf_keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype='float64')
  keras.build([None, None, None, 6])
  keras.set_weights(layer.get_weights())
  for training in (True, False):
    with tf.GradientTape(persistent=True) as tape:
      tape.watch(features := tf.constant(FEATURES))
      losses = [tf.reduce_sum(outputs**3) for outputs in (
          layer(features, present, training=training), keras(features, training=training))]
    gradients = tape.gradient(losses[0], [features, layer.gamma, layer.beta])
    expected = tape.gradient(losses[1], [features, keras.gamma, keras.beta])
    for first, second in zip([losses[0], *gradients], [losses[1], *expected]):
      np.testing.assert_allclose(first, second, 1e-6, 1e-8)
    for first, second in zip(layer.get_weights(), keras.get_weights()):
      np.testing.assert_allclose(first, second, 1e-8)


def test_a_folded_presence_norm_has_its_shift_left():
  layer = _presence_norm(epsilon=0.25)
  expected = layer(FEATURES)
  scale = layer.fold()
  for training in (False, True):
    np.testing.assert_allclose(layer(FEATURES * scale, training=training), expected, 1e-12, 1e-12)
  assert np.any(np.abs(scale - 1) > 0.1)


def test_gradients_where_no_image_is_present_are_those_of_inference():
  layer, features = _presence_norm(), tf.constant(FEATURES)
  gradients = []
  for present in (tf.zeros([5], tf.bool), None):
    with tf.GradientTape() as tape:
      tape.watch(features)
      loss = tf.reduce_sum(layer(features, present, training=present is not None)**2)
    gradients.append(tape.gradient(loss, features))
  np.testing.assert_allclose(*gradients, 1e-10)
  assert np.all(np.isfinite(gradients[0]))


def test_statistics_of_presence_norm_are_float32_under_low_precision():
  """Sums of 4096 values of 1000 and more overflow float16."""
  layer = norms.PresenceNorm()
  features = np.random.default_rng(0).normal(1000, 4, [1, 64, 64, 2])
  outputs = layer(tf.constant(features, tf.float16), training=True)
  assert outputs.dtype == tf.float16
  np.testing.assert_allclose(layer.moving_mean, [100, 100], 0.01)
  assert np.all(np.isfinite(outputs))


@pytest.mark.slow
def test_two_replicas_share_their_statistics():
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(TESTS), str(TESTS.parent)])}
  done = subprocess.run(
      [sys.executable, TESTS / 'processes' / 'presence_norm_replicas.py'], env=environment,
      capture_output=True, text=True, timeout=300, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.strip().splitlines()[-1] == '2 replicas equal one device in 3 cases'


@pytest.mark.parametrize('policy', ['float16', 'bfloat16', 'mixed_float16', 'mixed_bfloat16'])
@pytest.mark.parametrize('cls', [norms.PresenceNorm, norms.FrozenBatchNorm])
def test_batch_norms_called_by_themselves_average_in_float32_under_every_policy(cls, policy):
  """Sums of 4096 values of 1000 and more overflow float16."""
  layer = cls(dtype=policy, momentum=0.5, epsilon=1e-3)
  half = tf.as_dtype(layer.dtype_policy.compute_dtype)
  features = tf.cast(np.random.default_rng(0).normal(1000, 40, [1, 64, 64, 2]), half)
  outputs = layer(features, training=True)
  assert outputs.dtype == half
  assert {variable.dtype for variable in layer.weights} == {tf.float32}
  if cls is norms.FrozenBatchNorm:
    weights = layer.watch(layer.prepare(half))
    layer.run(weights, features)
    layer.update(weights)
  values = features.numpy().astype(np.float64).reshape(-1, 2)
  np.testing.assert_allclose(layer.moving_mean, values.mean(0) / 2, 1e-4)
  np.testing.assert_allclose(layer.moving_variance, values.var(0) / 2 + 0.5, 1e-2)


def test_an_empty_batch_moves_no_averages():
  """A replica that gets no images must not spoil the averages of all."""
  layer = norms.FrozenBatchNorm()
  layer.build([None, None, None, 16])
  spies.randomize(layer)
  before = layer.get_weights()
  weights = layer.watch(layer.prepare(tf.float32))
  layer.run(weights, tf.zeros([0, 4, 5, 16]))
  layer.update(weights)
  for old, new in zip(before, layer.get_weights(), strict=True):
    np.testing.assert_allclose(new, old, 1e-6)
