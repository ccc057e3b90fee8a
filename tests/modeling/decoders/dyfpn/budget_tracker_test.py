"""Logits at a budget against NumPy, and the shares that images spend."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders.dyfpn import budget_tracker
from official_ext.ops import checks
from official_ext.ops import routing
import harness

DEARNESS = [0.25, 0.0, 1.0]
KNOTS = np.linspace(0, 1, 11)
RNG = np.random.default_rng(0)
LOGITS = (RNG.normal(size=[64, 2, 3]) * [0.1, 1, 30] + [5, -2, 100]).astype(np.float32)
SHIFTS = RNG.normal(size=[11, 2])


def _quantile(budget):
  with np.errstate(divide='ignore'):
    return np.clip(np.log(budget / (1 - budget)) / 1.702, -1e6, 1e6)


def _make(**options):
  layer = budget_tracker.BudgetTracker(2, DEARNESS, **options)
  layer(LOGITS[:1])
  return layer


def _weights(layer):
  return {v.name.split('/')[-1][:-2]: v.numpy().astype(np.float64) for v in layer.variables}


def _moved(normalized, shift):
  """Scores of three paths, by definition; `shift` is `[batch, levels]`."""
  return np.stack([0 * shift, *(normalized[..., path - 1] + shift * (
      DEARNESS[path] - DEARNESS[0]) for path in (1, 2))], -1)


@pytest.mark.parametrize('budget', [0.0, 0.03, 0.5, 0.77, 1.0, 'images'])
def test_equals_numpy(budget):
  budgets = np.linspace(0, 1, 64) if budget == 'images' else np.full(64, budget)
  layer, statistics = _make(), {
      'mean': RNG.normal(size=[2, 2]), 'variance': RNG.uniform(0.5, 2, [2, 2]), 'shifts': SHIFTS}
  for name, value in statistics.items():
    getattr(layer, f'_{name}').assign(value)
  with routing.spending(budgets.astype(np.float32) if budget == 'images' else budget):
    outputs = layer(LOGITS)
  others = LOGITS[..., 1:].astype(np.float64) - LOGITS[..., :1]
  normalized = (others - statistics['mean']) / np.sqrt(statistics['variance'] + 1e-5)
  shift = _quantile(budgets)[:, None] + np.stack(
      [np.interp(budgets, KNOTS, SHIFTS[:, level]) for level in (0, 1)], -1)
  np.testing.assert_allclose(outputs, 4 * _moved(normalized, shift), 1e-4, 1e-3)


def test_a_training_step_moves_statistics_and_shifts():
  layer, mean, variance, shifts = _make(rate=0.25), None, None, np.zeros([11, 2])
  for step, rows in enumerate((slice(0, 30), slice(30, 34), slice(34, 64))):
    with routing.spending(0.5):
      layer(LOGITS[rows], training=True)
    others = LOGITS[rows, :, 1:].astype(np.float64) - LOGITS[rows, :, :1]
    if not step:
      mean, variance = others.mean(0), others.var(0)
    else:
      variance = 0.99 * variance + 0.01 * ((others - mean)**2).mean(0)
      mean = 0.99 * mean + 0.01 * others.mean(0)
    normalized = (others - mean) / np.sqrt(variance + 1e-5)
    for knot, budget in enumerate(KNOTS):
      shift = np.tile(_quantile(budget) + shifts[knot], [len(others), 1])
      paths = np.argmax(_moved(normalized, shift), -1)
      shifts[knot] += 0.25 * (budget - np.array(DEARNESS)[paths].mean(0))
  found = _weights(layer)
  np.testing.assert_allclose(found['mean'], mean, 1e-4)
  np.testing.assert_allclose(found['variance'], variance, 1e-3)
  np.testing.assert_allclose(found['shifts'], shifts, 0, 1e-5)
  assert np.ptp(shifts) > 0.1


@pytest.mark.parametrize('dearness', [[0.0, 1.0], DEARNESS])
def test_images_of_two_kinds_spend_the_wanted_share_though_batches_are_small(dearness):
  """A normal distribution would open half of the gates at every budget between."""
  layer = budget_tracker.BudgetTracker(1, dearness)
  kind = RNG.choice([-4.0, 4.0], [1600, 1, 1]) * np.linspace(0.5, 1, len(dearness))
  logits = (kind + RNG.normal(size=[1600, 1, len(dearness)])).astype(np.float32)
  logits[..., 0] = 0
  for _ in range(2):
    for rows in range(0, 1600, 4):
      layer(logits[rows:rows + 4], training=True)
  before = 0.0
  for budget in np.linspace(0, 1, 11):
    with routing.spending(np.float32(budget)):
      paths = np.argmax(layer(logits), -1)
    share = float(np.array(dearness)[paths].mean())
    assert share == pytest.approx(budget, abs=0.05) and share >= before
    before = share
  assert before == 1.0
  np.testing.assert_array_equal(np.argmax(layer(logits), -1), paths)  # Without a budget it is 1.


@pytest.mark.parametrize('budget', [0.1, 0.5, 0.9])
def test_gradients_reach_logits(budget):
  layer, logits = _make(), tf.Variable(LOGITS)
  with tf.GradientTape() as tape, routing.spending(budget):
    loss = tf.reduce_sum(tf.nn.softmax(layer(logits, training=True))[..., 0]**2)
  assert np.all(np.any(tape.gradient(loss, logits) != 0, axis=0))


def test_a_layer_that_is_not_trained_keeps_its_numbers():
  layer = _make()
  layer.trainable = False
  layer(LOGITS, training=True)
  assert not any(np.any(value) for value in _weights(layer).values())


def test_layer_contract():
  harness.run_layer_checks(
      budget_tracker.BudgetTracker, {'columns': 2, 'dearness': DEARNESS, 'rate': 0.1},
      tf.constant(LOGITS), 0)


def test_everything_is_float32_under_any_policy():
  before = tf_keras.mixed_precision.global_policy()
  tf_keras.mixed_precision.set_global_policy('mixed_bfloat16')
  try:
    layer = _make()
    assert {x.dtype for x in (layer(LOGITS), *layer.variables)} == {tf.float32}
  finally:
    tf_keras.mixed_precision.set_global_policy(before)


def test_refuses_a_rate_that_is_not_positive():
  with pytest.raises(checks.ArgumentError, match='^rate is 0'):
    _make(rate=0)


@pytest.mark.parametrize('dearness', [[0.0, 1.0], DEARNESS])
def test_calibrated_images_spend_the_wanted_share(dearness):
  """The share is off by at most two of the 100 images, however the logits are spread."""
  layer = budget_tracker.BudgetTracker(2, dearness)
  kinds = RNG.choice([-40.0, 4.0], [100, 2, 1]) * np.linspace(0.5, 1, len(dearness))
  logits = (kinds + RNG.normal(size=[100, 2, len(dearness)])).astype(np.float32)
  layer(logits[:3], training=True)
  layer.calibrate(logits)
  for budget in KNOTS:
    with routing.spending(np.float32(budget)):
      paths = np.argmax(layer(logits), -1)
    np.testing.assert_allclose(np.array(dearness)[paths].mean(0), budget, 0, 0.02)
  found = _weights(layer)
  others = logits[..., 1:].astype(np.float64) - logits[..., :1]
  np.testing.assert_allclose(found['mean'], others.mean(0), 1e-4, 1e-4)
  np.testing.assert_allclose(found['variance'], others.var(0), 1e-4)
  assert np.all(np.isfinite(found['shifts']))


@pytest.mark.parametrize('dearness', [[0.0, 1.0], DEARNESS])
def test_rounding_decides_about_no_calibrated_image(dearness):
  layer = budget_tracker.BudgetTracker(2, dearness)
  logits = RNG.normal(size=[5, 2, len(dearness)]).astype(np.float32)
  layer(logits, training=True)
  layer.calibrate(logits)
  for budget in KNOTS[1:-1]:
    with routing.spending(np.float32(budget)):
      moved = np.sort(layer(logits), -1)
    assert np.min(moved[..., -1] - moved[..., -2]) > 1e-4


def test_an_empty_batch_moves_nothing():
  """A replica that gets no images must not spoil the statistics and shifts of all."""
  layer = _make()
  for rows in (slice(0, 0), slice(0, 30), slice(0, 0)):
    before = _weights(layer)
    layer(LOGITS[rows], training=True)
    for name, value in _weights(layer).items():
      assert np.all(np.isfinite(value)), name
      assert np.array_equal(value, before[name]) == (rows.stop == 0), name
