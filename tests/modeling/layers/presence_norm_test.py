"""Batch norm over present images against NumPy, and against Keras where all are present."""
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import presence_norm

TESTS = pathlib.Path(__file__).resolve().parents[2]
FEATURES = np.random.default_rng(0).normal(2, 3, [5, 4, 3, 6])


def make(**options):
  layer = presence_norm.PresenceNorm(**{'dtype': 'float64', **options})
  layer.build([None, None, None, 6])
  rng = np.random.default_rng(1)
  layer.set_weights([rng.uniform(0.5, 2, 6) for _ in range(4)])
  return layer


@pytest.mark.parametrize('present', [[1, 0, 0, 1, 1], [0, 0, 1, 0, 0], [0] * 5, [1] * 5])
def test_equals_numpy(present):
  layer = make(momentum=0.8, epsilon=0.01)
  gamma, beta, mean, variance = layer.get_weights()
  seen = FEATURES[np.array(present, bool)].reshape(-1, 6)
  now = (seen.mean(0), seen.var(0)) if len(seen) else (mean, variance)
  outputs = layer(FEATURES, np.array(present, bool), training=True)
  expected = gamma * (FEATURES - now[0]) / np.sqrt(now[1] + 0.01) + beta
  np.testing.assert_allclose(outputs, expected, 1e-10, 1e-10)
  for old, new, seen_now in zip((mean, variance), layer.get_weights()[2:], now):
    np.testing.assert_allclose(new, 0.8 * old + 0.2 * seen_now, 1e-12)


@pytest.mark.parametrize('present', [None, tf.ones([5], tf.bool)])
def test_equals_keras_where_all_are_present(present):
  ours, theirs = make(), tf_keras.layers.BatchNormalization(
      momentum=0.9, epsilon=1e-5, dtype='float64')
  theirs.build([None, None, None, 6])
  theirs.set_weights(ours.get_weights())
  for training in (True, False):
    with tf.GradientTape(persistent=True) as tape:
      tape.watch(features := tf.constant(FEATURES))
      losses = [tf.reduce_sum(outputs**3) for outputs in (
          ours(features, present, training=training), theirs(features, training=training))]
    mine = tape.gradient(losses[0], [features, ours.gamma, ours.beta])
    stock = tape.gradient(losses[1], [features, theirs.gamma, theirs.beta])
    for first, second in zip([losses[0], *mine], [losses[1], *stock]):
      np.testing.assert_allclose(first, second, 1e-6, 1e-8)
    for first, second in zip(ours.get_weights(), theirs.get_weights()):
      np.testing.assert_allclose(first, second, 1e-8)


def test_a_folded_norm_has_its_shift_left():
  layer = make(epsilon=0.25)
  expected = layer(FEATURES)
  scale = layer.fold()
  for training in (False, True):
    np.testing.assert_allclose(layer(FEATURES * scale, training=training), expected, 1e-12, 1e-12)
  assert np.any(np.abs(scale - 1) > 0.1)


def test_gradients_where_no_image_is_present_are_those_of_inference():
  layer, features = make(), tf.constant(FEATURES)
  gradients = []
  for present in (tf.zeros([5], tf.bool), None):
    with tf.GradientTape() as tape:
      tape.watch(features)
      loss = tf.reduce_sum(layer(features, present, training=present is not None)**2)
    gradients.append(tape.gradient(loss, features))
  np.testing.assert_allclose(*gradients, 1e-10)
  assert np.all(np.isfinite(gradients[0]))


def test_statistics_are_float32_under_low_precision():
  """Sums of 4096 values of 1000 and more overflow float16."""
  layer = presence_norm.PresenceNorm()
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
