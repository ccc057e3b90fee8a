"""Path similarity against a loop over pairs, and against numbers calculated by hand."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.losses import path_similarity
from official_ext.ops import checks


def similarity_loss(paths, presence, minimum, maximum):
  """Returns the loss, summed one pair after the other, in float64."""
  total = 0.0
  for i in range(len(paths)):
    for j in range(i + 1, len(paths)):
      norm = np.linalg.norm(paths[i]) * np.linalg.norm(paths[j])
      cosine = np.dot(paths[i], paths[j]) / norm if norm else 0.0
      alike = np.mean([a == b for a, b in zip(presence[i], presence[j])])
      total += (cosine - (alike * (maximum - minimum) + minimum))**2
  return total / len(paths)


PRESENCE = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]])


def test_similarity_of_scales():
  alike = path_similarity.scale_similarities(tf.constant(PRESENCE, tf.float32)).numpy()
  np.testing.assert_array_equal(alike[0], [1, 0.5, 1, 0, 0.5])
  assert alike[1, 4] == 1  # Neither image has an object.


@pytest.mark.parametrize('minimum, maximum', [(0.6, 0.95), (0.4, 0.95), (0.8, 0.8)])
def test_similarity_loss_equals_numpy(minimum, maximum):
  paths = np.random.default_rng(3).uniform(0, 1, [5, 11])
  paths[paths < 0.4], paths[3] = 0, 0
  loss = path_similarity.loss(tf.constant(paths, tf.float32), tf.constant(PRESENCE, tf.float32),
                              minimum, maximum)
  np.testing.assert_allclose(loss, similarity_loss(paths, PRESENCE, minimum, maximum), rtol=1e-5)


def test_similarity_loss_by_hand():
  paths = tf.constant([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
  presence = tf.constant([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
  root = np.sqrt(0.5)
  expected = ((root - 0.9)**2 + (0 - 0.5)**2 + (root - 0.5)**2) / 3
  np.testing.assert_allclose(path_similarity.loss(paths, presence, 0.5, 0.9), expected, rtol=1e-5)


def test_similarity_loss_is_zero_at_the_wanted_similarity_and_without_pairs():
  presence = tf.constant([[1.0, 0.0], [1.0, 0.0]])
  alike = tf.constant([[0.2, 0.4], [0.4, 0.8]])
  np.testing.assert_allclose(path_similarity.loss(alike, presence, 0.0, 1.0), 0, atol=1e-12)
  apart = tf.constant([[0.2, 0.0], [0.0, 0.8]])
  assert float(path_similarity.loss(apart, presence, 0.0, 0.0)) == 0
  assert float(path_similarity.loss(alike[:1], presence[:1])) == 0
  assert float(path_similarity.loss(alike[:0], presence[:0])) == 0


def test_paths_are_pulled_together_by_like_scales_and_apart_by_others():
  paths = tf.Variable([[0.9, 0.3], [0.4, 0.8]])

  def pull(presence):
    with tf.GradientTape() as tape:
      loss = path_similarity.loss(paths, tf.constant(presence), 0.2, 1.0)
    moved = paths - 0.01 * tape.gradient(loss, paths)
    after, before = (path_similarity.path_similarities(x)[0, 1] for x in (moved, paths))
    return float(after - before)

  assert pull([[1.0, 0.0], [1.0, 0.0]]) > 1e-4
  assert pull([[1.0, 0.0], [0.0, 1.0]]) < -1e-4


def test_gradients_stay_finite_where_every_gate_is_shut():
  paths, presence = tf.Variable([[0.0, 0.0], [0.0, 0.0], [0.5, 0.2]]), tf.constant(PRESENCE[:3, :2])
  with tf.GradientTape() as tape:
    # As in a router: a gate that is shut is 0 and has no gradient.
    loss = path_similarity.loss(tf.where(paths > 0, paths, 0.0), tf.cast(presence, tf.float32))
  assert np.all(np.isfinite(tape.gradient(loss, paths)))


@pytest.mark.parametrize('limits', [(0.9, 0.8), (-0.1, 0.5), (0.5, 1.1)])
def test_a_wrong_range_is_refused(limits):
  with pytest.raises(checks.ArgumentError, match='minimum is'):
    path_similarity.loss(tf.zeros([2, 2]), tf.zeros([2, 2]), *limits)
