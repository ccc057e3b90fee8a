"""Logits at a budget against NumPy, and the shares of open gates."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import budgeted_logits
from official_ext.ops import checks
from official_ext.ops import routing
import harness

DEARNESS = [1.0, -0.5, 0.25]
RNG = np.random.default_rng(0)
LOGITS = (RNG.normal(size=[64, 3]) * [0.1, 1, 30] + [5, -2, 100]).astype(np.float32)
SHIFTS = RNG.normal(size=[6, 3])


def _make(**options):
  layer = budgeted_logits.BudgetedLogits(DEARNESS, **options)
  layer(LOGITS[:1])
  return layer


def _expected(normalized, budgets, sharpness=4.0):
  """The quantile of the logistic distribution, and the learned shifts by np.interp."""
  knots = np.linspace(0, 1, 6)
  learned = np.stack([np.interp(budgets, knots, SHIFTS[:, gate]) for gate in range(3)], -1)
  quantile = np.clip(np.log(budgets / (1 - budgets)) / 1.702, -1e4, 1e4)
  return sharpness * (normalized + quantile[:, None] * DEARNESS + learned)


@pytest.mark.parametrize('budget', [0.03, 0.2, 0.5, 0.77, 'images'])
def test_equals_numpy(budget):
  budgets = np.linspace(0.05, 0.95, 64) if budget == 'images' else np.full(64, budget)
  layer = _make(sharpness=3.0, momentum=0.75)
  layer._shifts.assign(SHIFTS)
  values = LOGITS.astype(np.float64)
  mean, variance = values.mean(0), values.var(0)
  given = budgets.astype(np.float32) if budget == 'images' else budget
  with routing.spending(given):
    trained, inferred = layer(LOGITS, training=True), layer(LOGITS)
  by_hand = _expected((values - mean) / np.sqrt(variance + 1e-5), budgets, 3.0)
  np.testing.assert_allclose(trained, by_hand, 1e-3, 1e-3)
  # One step of the moving averages, which start at 0.
  by_hand = _expected((values - mean / 4) / np.sqrt(variance / 4 + 1e-5), budgets, 3.0)
  np.testing.assert_allclose(inferred, by_hand, 1e-3, 1e-3)


def test_a_fresh_layer_opens_the_wanted_share_of_gates_and_more_at_a_higher_budget():
  layer = budgeted_logits.BudgetedLogits([1.0] * 3, momentum=0.5)
  logits = (RNG.normal(size=[2000, 3]) * [0.1, 1, 30] + [5, -2, 100]).astype(np.float32)
  for _ in range(60):
    layer(logits, training=True)
  before = np.zeros([2000, 3], bool)
  for budget in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0):
    with routing.spending(budget):
      is_open = layer(logits).numpy() > 0
    np.testing.assert_allclose(is_open.mean(0), [budget] * 3, atol=0.03)
    assert np.all(is_open >= before)
    before = is_open
  assert np.all(before)
  np.testing.assert_array_equal(layer(logits) > 0, True)  # Without a budget it is 1.


def test_maps_are_normalized_over_images_and_positions_and_budgets_are_of_images():
  layer = budgeted_logits.BudgetedLogits([1.0])
  maps = RNG.normal(3, 2, size=[4, 5, 6, 1]).astype(np.float32)
  flat = budgeted_logits.BudgetedLogits([1.0])
  budgets = np.array([0.2, 0.4, 0.6, 0.8], np.float32)
  with routing.spending(budgets):
    together = layer(maps, training=True)
  with routing.spending(np.repeat(budgets, 30)):
    expected = flat(maps.reshape([-1, 1]), training=True)
  np.testing.assert_allclose(np.reshape(together, [-1, 1]), expected, 1e-4, 1e-4)


@pytest.mark.parametrize('budget', [0.1, 0.5, 0.9])
def test_gradients_reach_logits_and_the_shifts_beside_the_budget(budget):
  layer, logits = _make(), tf.Variable(LOGITS)
  with tf.GradientTape() as tape, routing.spending(budget):
    loss = tf.reduce_sum(tf.nn.sigmoid(layer(logits, training=True))**2)
  for_logits, for_shifts = tape.gradient(loss, [logits, layer._shifts])
  assert np.all(np.any(for_logits != 0, axis=0))
  near = np.abs(np.linspace(0, 1, 6) - budget) < 0.2
  np.testing.assert_array_equal(np.all(for_shifts != 0, axis=1), near)


def test_full_and_empty_budgets_leave_gates_alone_in_training():
  for budget in (0.0, 1.0):
    layer, logits = _make(), tf.Variable(LOGITS)
    with tf.GradientTape() as tape, routing.spending(budget):
      loss = tf.reduce_sum(tf.nn.sigmoid(layer(logits, training=True))[:, 0])
    assert not np.any(tape.gradient(loss, logits))


def test_layer_contract():
  harness.run_layer_checks(
      budgeted_logits.BudgetedLogits, {'dearness': DEARNESS, 'sharpness': 2.0, 'momentum': 0.8},
      tf.constant(LOGITS), 6 * 3)


def test_everything_is_float32_under_any_policy():
  before = tf_keras.mixed_precision.global_policy()
  tf_keras.mixed_precision.set_global_policy('mixed_bfloat16')
  try:
    layer = _make()
    assert {x.dtype for x in (layer(LOGITS), *layer.variables)} == {tf.float32}
  finally:
    tf_keras.mixed_precision.set_global_policy(before)


def test_refuses_a_sharpness_that_is_not_positive():
  with pytest.raises(checks.ArgumentError, match='^sharpness is 0'):
    budgeted_logits.BudgetedLogits([1.0], sharpness=0)
