"""Norm and shift of logits at a budget against NumPy, and the shares that the controller finds."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.layers import budget_control
from official_ext.ops import checks
from official_ext.ops import routing
import harness

RNG = np.random.default_rng(0)
KNOTS = np.linspace(0, 1, 11)
MAPS = [RNG.normal(5, 0.1, [4, 3, 5, 1]), RNG.normal(-2, 30, [4, 2, 2, 2])]


def _moves(*weights):
  """Returns how far each knot moves if the number between the third and fourth one moves by 1."""
  weights = np.array([0, 0, *weights, *[0] * 7])
  moves = [sum(w * 0.5**abs(i - j) for j, w in enumerate(weights)) for i in range(11)]
  return (moves / np.dot(weights, moves))[:, None]


def _named(layer):
  return {variable.name.split('/')[-1][:-2]: variable for variable in layer.variables}


def _norm(columns=3, **options):
  layer = budget_control.BudgetNorm(columns, dtype='float64', **options)
  layer.build(None)
  return layer


def _shift(columns=2, **options):
  layer = budget_control.BudgetShift(columns, dtype='float64', **options)
  layer.build(None)
  return layer


def test_the_norm_in_training_equals_numpy_and_moves_the_averages_of_its_budget():
  layer = _norm(momentum=0.75)
  statistics = []
  for step, budget in enumerate([0.5, 0.26]):
    maps = [x + step for x in MAPS]
    with routing.spending(np.float32(budget)):
      found = layer(maps, training=True)
    for x, normalized in zip(maps, found):
      mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
      np.testing.assert_allclose(normalized, (x - mean) / np.sqrt(variance + 1e-5), 1e-6, 1e-9)
    statistics.append([np.concatenate([f(x, axis=(0, 1, 2)) for x in maps])
                       for f in (np.mean, np.var)])
  # The first step sets all averages; the second one moves by a quarter the interpolated mean, and
  # by parts of a quarter the variances beside 0.26.
  for name, moves, first, second in zip(
      ('mean', 'variance'), (_moves(0.4, 0.6), np.array([[0, 0, 0.4, 0.6, *[0] * 7]]).T),
      *statistics):
    np.testing.assert_allclose(
        _named(layer)[name], first + 0.25 * moves * (second - first), 1e-6)


def test_the_norm_at_inference_interpolates_for_each_image():
  layer = _norm()
  mean, variance = RNG.normal(size=[11, 3]), RNG.uniform(0.5, 2, [11, 3])
  layer.set_weights([mean, variance])
  budgets = np.array([0.0, 0.13, 0.5, 1.0], np.float32)
  with routing.spending(budgets):
    found = np.concatenate([np.reshape(x, [4, -1, x.shape[-1]])[:, :4] for x in layer(MAPS)], -1)
  given = np.concatenate([np.reshape(x, [4, -1, x.shape[-1]])[:, :4] for x in MAPS], -1)
  for column in range(3):
    at = [np.interp(budgets, KNOTS, values[:, column])[:, None] for values in (mean, variance)]
    np.testing.assert_allclose(
        found[..., column], (given[..., column] - at[0]) / np.sqrt(at[1] + 1e-5), 1e-6)


def test_the_norm_counts_only_what_it_shall():
  layer, logits = _norm(2), RNG.normal(size=[5, 2])
  counted = np.array([[1, 0], [1, 0], [0, 0], [1, 0], [0, 0]], bool)
  found, = layer([tf.constant(logits)], training=True, counted=counted)
  rows = logits[counted[:, 0], 0]
  np.testing.assert_allclose(
      found[:, 0], (logits[:, 0] - rows.mean()) / np.sqrt(rows.var() + 1e-5), 1e-6)
  np.testing.assert_allclose(_named(layer)['mean'], [[rows.mean(), 0]] * 11, 1e-6)
  np.testing.assert_array_equal(_named(layer)['variance'][:, 1], 0)  # As before the first step.


def test_gradients_pass_the_norm_as_a_batch_norm():
  logits = tf.Variable(RNG.normal(size=[8, 1]))
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(tf.sigmoid(_norm(1)([logits], training=True)[0])**2)
  gradient = tape.gradient(loss, logits).numpy()
  assert np.all(gradient != 0)
  # Neither the mean nor the size of logits matters.
  np.testing.assert_allclose(gradient.sum(), 0, atol=1e-9)
  np.testing.assert_allclose((gradient * logits).numpy().sum(), 0, atol=1e-4)


def test_the_shift_equals_numpy():
  layer, values = _shift(), RNG.normal(size=[11, 2])
  layer.set_weights([values])
  budgets = np.array([0.1, 0.42, 0.8], np.float32)
  logits = [RNG.normal(size=[3, 4, 1]), RNG.normal(size=[3, 1])]
  with routing.spending(budgets):
    found = layer(logits)
  for column, (x, moved) in enumerate(zip(logits, found)):
    shift = np.log(budgets / (1 - budgets)) / 1.702 + np.interp(budgets, KNOTS, values[:, column])
    np.testing.assert_allclose(moved, x + shift.reshape([3, *[1] * (x.ndim - 1)]), 1e-5)


@pytest.mark.parametrize('budget, is_open', [(0.0, False), (1.0, True)])
def test_all_or_nothing_whatever_the_shifts(budget, is_open):
  layer = _shift(1)
  layer.set_weights([np.full([11, 1], -4.0 if is_open else 4.0)])
  with routing.spending(budget):
    np.testing.assert_array_equal(layer([np.linspace(-1e3, 1e3, 9)[:, None]])[0] > 0, is_open)


def test_a_step_of_the_controller_equals_numpy():
  layer, start = _shift(rate=0.5), RNG.normal(size=[11, 2])
  layer.set_weights([start])
  shares = np.array([[0.2, 0.9], [0.0, 0.3]])
  with routing.spending(np.array([0.25, 0.25], np.float32)):
    layer.control(shares)
  expected = start + 0.5 * _moves(0.5, 0.5) * (0.25 - shares).mean(0)
  np.testing.assert_allclose(layer.get_weights()[0], expected, 1e-6)
  layer.trainable = False
  layer.control(shares)
  np.testing.assert_allclose(layer.get_weights()[0], expected, 1e-6)
  layer.trainable = True
  for _ in range(99):  # A share that nothing can reach winds nothing up.
    with routing.spending(0.2):
      layer.control(np.ones([1, 2]))
  np.testing.assert_allclose(layer.get_weights()[0][2], -4)


def test_calibration_moves_the_shift_of_one_budget():
  layer, start = _shift(rate=0.5), RNG.normal(size=[11, 2])
  layer.set_weights([start])
  assert not budget_control.moves_shifts(None)
  with routing.spending(0.3), budget_control.calibrating(tf.constant(0.25)):
    with budget_control.calibrating(1.0):
      pass  # The outer context goes on.
    assert budget_control.moves_shifts(None)
    layer.control(np.array([[0.2, 0.9], [0.0, 0.3]]))
  assert not budget_control.moves_shifts(False) and budget_control.moves_shifts(True)
  expected = start.copy()
  expected[3] += 0.25 * (0.3 - np.array([0.1, 0.6]))
  np.testing.assert_allclose(layer.get_weights()[0], expected, atol=1e-6)


@pytest.mark.parametrize('draw', [
    lambda shape: RNG.normal(3, 0.5, shape), lambda shape: RNG.exponential(20, shape)])
def test_norm_and_controller_find_the_wanted_share_of_any_distribution(draw):
  """Logits whose mean depends on the budget, as those behind gates do."""
  norm, shift = _norm(1), _shift(1)

  @tf.function(autograph=False)
  def step(logits, budget):
    with routing.spending(budget):
      moved, = shift(norm([logits + tf.cast(budget, tf.float64)], training=True))
      shift.control(tf.reduce_mean(tf.cast(moved > 0, tf.float64), 1))

  for number in range(400):
    budget = 1.0 if number % 4 == 3 else RNG.uniform(0.05, 0.95)
    step(tf.constant(draw([4, 200, 1])), tf.constant(budget, tf.float32))
  before = np.zeros([4, 2000, 1], bool)
  logits = draw([4, 2000, 1])
  for budget in (0.0, 0.1, 0.25, 0.4, 0.6, 0.75, 0.9, 1.0):
    with routing.spending(budget):
      is_open = shift(norm([logits + budget]))[0].numpy() > 0
    np.testing.assert_allclose(is_open.mean(), budget, atol=0.03)
    assert np.all(is_open >= before)
    before = is_open


@pytest.mark.parametrize('layer, options', [
    (budget_control.BudgetNorm, {'columns': 3, 'momentum': 0.5}),
    (budget_control.BudgetShift, {'columns': 3, 'rate': 0.25})])
def test_layer_contract(layer, options):
  harness.run_layer_checks(layer, options, [x.astype(np.float32) for x in MAPS], 0)


def test_refuses_wrong_options():
  with pytest.raises(checks.ArgumentError, match='^momentum is 1'):
    budget_control.BudgetNorm(1, momentum=1)
  with pytest.raises(checks.ArgumentError, match='^rate is 0'):
    budget_control.BudgetShift(1, rate=0)
