"""The budget for every routed network: a share of what its gates can save."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.losses import budgets
from official_ext.ops import checks
from official_ext.ops import routing


def _routing(expected, minimum=2.0, maximum=12.0):
  expected = tf.convert_to_tensor(expected)
  return routing.Routing({}, expected, expected, tf.constant(minimum), tf.constant(maximum),
                         tf.constant(maximum))


def test_budget_by_hand():
  record = _routing([2.0, 7.0, 12.0])  # shares 0, 0.5, 1
  squares = [0.3**2, 0.2**2, 0.7**2]
  mean = budgets.budget_loss(record, 0.3)
  assert mean.dtype == tf.float32
  assert mean.shape == ()
  np.testing.assert_allclose(mean, np.mean(squares), 1e-6)
  np.testing.assert_allclose(budgets.budget_loss(record, 0.3, 'sum'), np.sum(squares), 1e-6)


def test_budget_is_zero_at_its_target_and_pulls_from_both_sides():
  cost = tf.Variable([5.0, 3.0, 9.0])
  with tf.GradientTape() as tape:
    loss = budgets.budget_loss(_routing(cost), 0.3, 'sum')
  gradient = tape.gradient(loss, cost)
  # d/dc ((c - 2) / 10 - 0.3)**2 = 2 (share - target) / 10
  np.testing.assert_allclose(gradient, [0, 2 * (0.1 - 0.3) / 10, 2 * (0.7 - 0.3) / 10], 1e-5, 1e-7)
  np.testing.assert_allclose(budgets.budget_loss(_routing([5.0]), 0.3), 0, atol=1e-12)


def test_absolute_budget_by_hand():
  cost = tf.Variable([2.0, 7.0, 12.0])  # shares 0, 0.5, 1
  with tf.GradientTape() as tape:
    loss = budgets.budget_loss(_routing(cost), 0.0, distance='absolute')
  np.testing.assert_allclose(loss, 0.5, 1e-6)
  # The first image is shut: its share is at the target, where the distance has no gradient.
  np.testing.assert_allclose(tape.gradient(loss, cost), [0, 1 / 30, 1 / 30], 1e-6)
  np.testing.assert_allclose(
      budgets.budget_loss(_routing(cost), 0.6, 'sum', 'absolute'), 0.6 + 0.1 + 0.4, 1e-6)


def test_budget_of_the_mean_share_lets_images_differ():
  cost = tf.Variable([2.0, 7.0, 12.0])  # shares 0, 0.5, 1
  with tf.GradientTape() as tape:
    loss = budgets.budget_loss(_routing(cost), tf.constant(0.3), 'mean_share')
  np.testing.assert_allclose(loss, 0.2**2, 1e-6)
  np.testing.assert_allclose(tape.gradient(loss, cost), [2 * 0.2 / 10 / 3] * 3, 1e-5)
  np.testing.assert_allclose(
      budgets.budget_loss(_routing(cost), 0.7, 'mean_share', 'absolute'), 0.2, 1e-6)


def test_budget_of_a_network_that_cannot_save_is_finite():
  assert float(budgets.budget_loss(_routing([2.0], 2.0, 2.0), 0.5)) == 0.25


@pytest.mark.parametrize('options, argument, message', [
    ((1.5, 'mean'), 'target', 'target is 1.5'),
    ((-0.1, 'mean'), 'target', 'between 0'),
    ((0.5, 'max'), 'reduction', "reduction is 'max'.*'mean', 'sum', 'mean_share'"),
    ((0.5, 'mean', 'cubed'), 'distance', "distance is 'cubed'.*'squared', 'absolute'")])
def test_budget_refuses_wrong_arguments(options, argument, message):
  with pytest.raises(checks.ArgumentError, match=message) as error:
    budgets.budget_loss(_routing([5.0]), *options)
  assert error.value.argument == argument


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'mean_share'])
def test_a_replica_without_images_adds_nothing_to_the_gradients_of_others(reduction):
  logits = tf.Variable(0.5)
  with tf.GradientTape() as tape:
    loss = budgets.budget_loss(_routing(10 * logits * tf.zeros([0])), 0.3, reduction)
  assert np.isfinite(loss)
  assert tape.gradient(loss, logits).numpy() == 0


def test_a_tape_on_which_nothing_is_recorded_has_no_budget():
  with routing.RoutingTape() as tape:
    pass
  with pytest.raises(checks.ArgumentError, match='record is None: no layer .*open in this thread'):
    budgets.budget_loss(tape.routing(), 0.3)


def test_a_target_may_have_any_dtype():
  expected = budgets.budget_loss(_routing([5.0]), 0.5)
  for dtype in (tf.float16, tf.float64):
    np.testing.assert_array_equal(
        budgets.budget_loss(_routing([5.0]), tf.constant(0.5, dtype)), expected)
