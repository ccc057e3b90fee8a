"""The budget that a step draws: its values, and which models it fits."""
from unittest import mock

import numpy as np
import tensorflow as tf

from official_ext.losses import drawn_budget


def _draws(steps, draw_range=(0.2, 0.6), full_every=0, shrink_steps=0):
  draw = tf.function(
      lambda step: drawn_budget.draw(step, draw_range, full_every, shrink_steps))
  return np.array([draw(tf.constant(step, tf.int64)) for step in range(steps)])


def test_draws_are_uniform_in_the_range_and_repeat():
  draws = _draws(400)
  assert draws.dtype == np.float32
  assert draws.min() >= 0.2 and draws.max() <= 0.6
  # Kolmogorov and Smirnov, 1 %.
  assert np.abs(np.sort(draws) - np.linspace(0.2, 0.6, 400)).max() < 0.4 * 1.63 / 400**0.5
  assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.15
  np.testing.assert_array_equal(_draws(20), draws[:20])


def test_every_nth_step_is_full_and_the_others_are_as_without():
  draws, full = _draws(9), _draws(9, full_every=3)
  np.testing.assert_array_equal(full[::3], 1)
  for start in (1, 2):
    np.testing.assert_array_equal(full[start::3], draws[start::3])


def test_the_range_widens_from_1_in_proportion_to_the_step():
  draws, shrinking = _draws(40), _draws(40, shrink_steps=16)
  share = np.minimum(np.arange(40) / 16, 1)
  np.testing.assert_allclose(shrinking, 1 - share * (1 - draws), atol=1e-6)
  np.testing.assert_array_equal(_draws(9, full_every=3, shrink_steps=16)[::3], 1)


def test_replicas_draw_the_same():
  here = float(drawn_budget.draw(tf.constant(7, tf.int64), [0.0, 1.0], 0, 0))
  context = mock.Mock(replica_id_in_sync_group=1)
  with mock.patch.object(tf.distribute, 'get_replica_context', return_value=context):
    assert float(drawn_budget.draw(tf.constant(7, tf.int64), [0.0, 1.0], 0, 0)) == here
