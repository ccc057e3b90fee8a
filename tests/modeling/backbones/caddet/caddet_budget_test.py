"""A supernet whose gates follow the budget of a call."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.backbones import caddet
from official_ext.modeling.backbones.caddet import path_budget
from official_ext.modeling.backbones.caddet import wiring
from official_ext.modeling.layers import budget_control
from official_ext.ops import checks
from official_ext.ops import routing
from official_ext.tasks import initialization
import caddet_reference
import supernets

BUDGETS = np.array([0.0, 0.2, 0.45, 0.6, 0.83, 1.0], np.float32)


def _zero(layer):
  for variable in layer.budget_variables:
    variable.assign(tf.zeros_like(variable))


def _make(**options):
  """Returns a supernet with averages of some images and with shifts of its own."""
  layer = supernets.make(budget_input=True, **options)
  _zero(layer)
  with routing.spending(0.6):
    layer(supernets.images(), training=True)
  rng = np.random.default_rng(3)
  for variable in layer.budget_variables:
    spread = 0.2 if 'shifts' in variable.name else 0.1 * np.abs(variable)
    variable.assign_add(rng.normal(0, spread, variable.shape))
  return layer


def _run(layer, images, budget, **options):
  with routing.spending(budget):
    return supernets.run(layer, images, **options)


def _share(record):
  return (record.executed - record.minimum) / (record.maximum - record.minimum)


@pytest.mark.parametrize('inference, hard', [('skip', False), ('mask', True)])
def test_a_budget_of_each_image_equals_numpy(inference, hard):
  layer, images = _make(inference=inference, hard_gates=hard), supernets.images()
  network = caddet_reference.Supernet(layer, budgets=BUDGETS.astype(np.float64))
  expected = network(images)
  outputs, record = _run(layer, images, BUDGETS)
  for level, x in outputs.items():
    for image in range(len(images)):
      wanted = expected[int(level) - 3].get(image, np.zeros(x.shape[1:]))
      np.testing.assert_allclose(x[image], wanted, 1e-3, 1e-4)
  for name, gate in supernets.gates_of(record).items():
    np.testing.assert_allclose(gate, network.gates[name], 1e-3, 1e-4, err_msg=name)
  np.testing.assert_array_equal(record.executed, [network.cost[i] for i in range(len(images))])
  shares = _share(record).numpy()
  assert shares[0] == 0 and shares[-1] == 1 and len(set(shares)) > 3


@pytest.mark.parametrize('inference', ['skip', 'mask'])
def test_an_image_gets_what_it_gets_alone(inference):
  layer, images = _make(inference=inference), supernets.images()
  outputs, record = _run(layer, images, BUDGETS)
  for row, budget in enumerate(BUDGETS):
    alone, alone_record = _run(layer, images[row:row + 1], budget)
    supernets.same(alone, {level: x[row:row + 1] for level, x in outputs.items()})
    assert alone_record.executed[0] == record.executed[row]


def test_paths_that_a_node_does_not_have_are_shut_at_every_budget():
  layer = path_budget.PathBudget(2, 2)
  nodes = [node for node in wiring.wire(2, 2) if node.layer == 1]
  exists = [[path in node.paths for path in wiring.PATHS] for node in nodes]
  assert not np.all(exists)
  for budget in BUDGETS[1:]:
    with routing.spending(budget):
      logits = layer(tf.random.normal([4, 2, 3]), nodes, tf.ones([4, 2], tf.bool))
    np.testing.assert_array_equal(logits.numpy() != 0, np.tile(exists, [4, 1, 1]))


def test_a_threshold_shuts_gates_at_a_budget_too():
  layer, images = _make(), supernets.images()
  _, own = _run(layer, images, 0.6)
  values = np.stack(list(supernets.gates_of(own).values()))
  threshold = np.median(values[values > 0])
  with routing.shutting_gates(threshold):
    _, record = _run(layer, images, 0.6)
  raised = np.stack(list(supernets.gates_of(record).values()))
  assert np.all((raised == 0) | (raised > threshold)) and np.any(raised > threshold)


def _calibrate(layer, images):
  """Moves the shifts by the shares of inference, as `tasks.budget_calibration` does."""
  @tf.function(autograph=False)
  def run(budget, rate):
    with routing.spending(budget), budget_control.calibrating(rate):
      layer(images, training=False)

  for number in range(12):
    for budget in budget_control.KNOTS[1:-1]:
      rate = 1 / (1.7 * budget * (1 - budget)) / (number + 2)
      run(tf.constant(budget, tf.float32), tf.constant(rate, tf.float32))


def test_the_share_that_runs_is_the_budget():
  """Norms of routers are those of groups: moving averages of a batch norm know no budget."""
  layer = supernets.make(
      num_layers=3, budget_input=True, inference='mask', router_norm='group')
  _zero(layer)
  rng = np.random.default_rng(0)
  images = supernets.images(batch=24, seed=1)

  @tf.function(autograph=False)
  def step(images, budget):
    with routing.spending(budget):
      layer(images, training=True)

  for number in range(240):
    budget = tf.constant(1.0 if number % 4 == 3 else rng.uniform(0.1, 0.95), tf.float32)
    step(tf.constant(images[rng.choice(24, 8, replace=False)]), budget)
  _calibrate(layer, images)
  budgets = np.linspace(0.1, 1, 10, dtype=np.float32)
  shares = [np.mean(_share(_run(layer, images, budget)[1])) for budget in budgets]
  np.testing.assert_allclose(shares, budgets, atol=0.03)
  assert np.mean(np.abs(shares - budgets)) < 0.015
  assert np.all(np.diff(shares) > 0)


@pytest.mark.parametrize('budget', [0.1, 0.3, 0.5, 0.7, 0.9])
def test_gradients_reach_the_routers_at_every_budget(budget):
  layer, images = _make(), supernets.images()
  with tf.GradientTape() as tape:
    _, record = _run(layer, images, budget, training=True)
    # The expected cost, which the loss sees, equals the executed cost.
    np.testing.assert_allclose(record.expected, record.executed, 1e-6)
    loss = tf.reduce_sum(record.expected / record.maximum)
  first = [v for v in layer.trainable_variables
           if 'layer_00_scale_0/router' in v.name and 'kernel' in v.name]
  assert len(first) == 2
  for variable, gradient in zip(first, tape.gradient(loss, first)):
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0), variable.name


def test_routers_learn_from_features_though_open_paths_have_weight_1():
  layer, images = _make(), supernets.images()
  layer.trainable = False  # All norms then take their averages, as at inference.
  routers = [v for v in layer.variables if '/router/' in v.name and 'kernel' in v.name]
  with tf.GradientTape() as tape, routing.spending(0.6):
    tape.watch(routers)
    outputs = layer(images, training=True)
    loss = tf.add_n([tf.reduce_sum(tf.square(x)) for x in outputs.values()])
  supernets.same(_run(layer, images, 0.6)[0], outputs)
  gradients = [x.numpy() for x in tape.gradient(loss, routers)]
  assert np.all(np.isfinite(np.concatenate([x.ravel() for x in gradients])))
  assert sum(np.any(x != 0) for x in gradients) > 5


@pytest.mark.parametrize('routers', [True, False])
def test_a_checkpoint_without_the_option_or_without_routers_starts_it(routers, tmp_path):
  plain = supernets.make(seed=1, routers=routers)
  layer = supernets.make(budget_input=True)
  assert layer.has_budget_input and not plain.has_budget_input and not plain.budget_variables
  before = [v.numpy() for v in layer.budget_variables]
  assert len(before) == 2 * 5 + 1
  saved = tf.train.Checkpoint(backbone=plain).save(str(tmp_path / 'plain'))
  initialization.load({'backbone': layer}, saved, 'backbone')
  ours = {v.name: v.numpy() for v in layer.variables}
  for variable in plain.variables:
    np.testing.assert_array_equal(ours[variable.name], variable)
  for variable, value in zip(layer.budget_variables, before):
    np.testing.assert_array_equal(variable, value)
  _, record = supernets.run(layer, supernets.images())  # Without a budget it is 1.
  np.testing.assert_array_equal(_share(record), 1)


def test_config_and_wrong_options():
  layer = caddet.CADDet(num_layers=4, channels=[4, 8], budget_input=True)
  assert caddet.CADDet.from_config(layer.get_config()).has_budget_input
  with pytest.raises(checks.ArgumentError, match='^budget_input is true, but routers is false'):
    caddet.CADDet(num_layers=4, channels=[4, 8], routers=False, budget_input=True)
