"""Cost, skipping and training of a dynamic tower: against NumPy, and one mode against another."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.losses import budgets
from official_ext.modeling.heads import dynamic_head
from official_ext.modeling.layers import routed
from official_ext.ops import routing
import dynamic_head_reference
import dynamic_towers
import spies
from dynamic_towers import ALL_LEVELS
from dynamic_towers import CHANNELS


@pytest.mark.parametrize('options', [{}, {'coarse': True}])
def test_cost_equals_numpy(options):
  inputs = dynamic_towers.features(batch=3)
  tower = dynamic_towers.make(inputs, **options)
  _, gates = dynamic_head_reference.tower(
      dynamic_head_reference.named_weights(tower), inputs, 2, **options)
  sizes = {level: np.prod(x.shape[1:3]) for level, x in inputs.items()}
  executed, minimum, maximum, ratio = dynamic_head_reference.cost(gates, sizes, CHANNELS)
  for inference in ('skip', 'mask'):
    routed.set_inference(tower, inference)
    _, record = dynamic_towers.run(tower, inputs)
    np.testing.assert_allclose(record.executed, executed, 1e-7)
    np.testing.assert_allclose([record.minimum, record.maximum, record.all_branches],
                               [minimum, maximum, maximum], 1e-7)
    np.testing.assert_allclose(record.expected, minimum + ratio * (maximum - minimum), 1e-6)
    np.testing.assert_allclose(
        budgets.budget_loss(record, 0, distance='absolute'), np.mean(ratio), 1e-5)
  assert minimum <= executed.min() and executed.max() < maximum
  assert len(set(executed)) > 1 or 'coarse' in options
  assert {x.dtype for x in (*spies.costs_of(record), *record.gates.values())} == {tf.float32}


def test_budget_of_a_few_positions_by_hand():
  """One level of 3 x 4 with one gate of 0.5 in a corner: eq. 4 written out."""
  inputs = {'3': np.zeros([1, 3, 4, CHANNELS])}
  tower = dynamic_towers.make(inputs, num_blocks=1)
  corner = np.zeros([1, 3, 4, 1])
  corner[0, 0, 0] = 0.5
  with dynamic_towers.forced_gates(lambda name, features: corner):
    _, record = dynamic_towers.run(tower, inputs)
  # The second convolution runs on one position, the first on the four around it.
  np.testing.assert_allclose(
      budgets.budget_loss(record, 0, distance='absolute'), 0.5 * (1 + 4) / (2 * 12), 1e-6)
  large = 9 * CHANNELS**2
  np.testing.assert_array_equal(
      [record.executed[0], record.minimum, record.maximum],
      [9 * CHANNELS * 12 + 5 * large, 9 * CHANNELS * 12, 9 * CHANNELS * 12 + 24 * large])


@pytest.mark.parametrize('options, saves', [
    ({'norm_positions': 'all'}, True), ({'activation': 'softmax'}, False),
    ({'depth_step': 'fixed'}, False)])
def test_cost_where_nothing_can_be_skipped(options, saves):
  inputs = dynamic_towers.features()
  _, record = dynamic_towers.run(dynamic_towers.make(inputs, **options), inputs)
  np.testing.assert_array_equal(record.executed, [float(record.maximum)] * 2)
  # With norms over all positions the budget still has a gradient, as in the reference's training.
  assert np.all(record.expected < record.maximum) == saves


def test_counts_of_the_paper():
  shapes = {level: [None, None, None, 256] for level in ALL_LEVELS}
  for options, count in [({}, 1_193_733), ({'scale_step': 'fixed', 'depth_step': 'fixed'},
                                           1_186_817)]:
    tower = dynamic_head.DynamicTower(num_blocks=1, **options)
    tower.build(shapes)
    assert tower.count_params() == count
  # 22400 locations of an image of 800 x 1344, two towers of eight blocks.
  sizes = {level: [-(-length // 2**int(level)) for length in (800, 1344)] for level in ALL_LEVELS}
  locations = sum(height * width for height, width in sizes.values())
  tower = dynamic_head.DynamicTower(num_blocks=1, inference='mask')

  @tf.function(autograph=False, input_signature=[{
      level: tf.TensorSpec([1, *size, 256]) for level, size in sizes.items()}])
  def bounds(features):
    _, record = dynamic_towers.run(tower, features)
    return record.minimum, record.maximum

  # Only the bounds are fetched: the tower does not run.
  minimum, maximum = bounds({level: tf.zeros([1, *size, 256]) for level, size in sizes.items()})
  assert locations == 22_400
  assert round(16 * float(minimum) / 1e9, 2) == round(1.855 + 1.029, 2)
  np.testing.assert_allclose(maximum - minimum, locations * 2 * 9 * 256**2)


@pytest.mark.parametrize('options', [{}, {'coarse': True}, {'scale_step': 'absent'}])
def test_modes_agree(options):
  inputs = dynamic_towers.features(batch=3)
  tower = dynamic_towers.make(inputs, **options)
  masked = tower(inputs, training=True)
  records = [dynamic_towers.run(tower, inputs, training=True)[1]]
  tower = dynamic_head.DynamicTower.from_config(
      {**tower.get_config(), 'training_mode': 'skip'})
  tower(inputs)
  tower.set_weights(dynamic_towers.make(inputs, **options).get_weights())
  for training, inference in [(True, 'skip'), (False, 'skip'), (False, 'mask'),
                              (False, 'tiles')]:
    tower.inference = inference
    outputs, record = dynamic_towers.run(tower, inputs, training)
    dynamic_towers.same(outputs, masked)
    records.append(record)
  for record in records[1:]:
    np.testing.assert_array_equal(record.executed, records[0].executed)


def test_tiles_without_room_are_counted():
  inputs = dynamic_towers.features(batch=3)
  tower = dynamic_towers.make(inputs, inference='tiles', tile_capacity=0.3)
  with dynamic_towers.forced_gates(
      lambda name, features: dynamic_towers.random_gates(name, features, shut=[1])):
    _, record = dynamic_towers.run(tower, inputs)
    _, trained = dynamic_towers.run(tower, inputs, training=True)
  dropped = record.metrics['tower/dropped_tiles']
  # The levels have 4 x 6, 2 x 3 and 1 x 2 tiles of 2 x 2 positions.  A share of 0.3, rounded up,
  # is 8, 2 and 1 tiles in each of the two blocks.
  np.testing.assert_array_equal(dropped, [2 * (16 + 4 + 1), 0, 2 * (16 + 4 + 1)])
  np.testing.assert_array_equal(trained.metrics['tower/dropped_tiles'], [0, 0, 0])
  assert tower.metric_names == ['dropped_tiles'] == list(tower.metric_limits)
  assert dynamic_towers.make(inputs).metric_names == []


def has_effect(name):
  """Returns whether a weight changes anything in these towers, with norms of single channels.

  Such a norm takes away what is added to its channel, here the biases of messages.
  """
  return not name.endswith(('coarser_bias:0', 'finer_bias:0'))


def test_gradients_of_both_training_modes_agree():
  inputs = dynamic_towers.features()
  masked, skipped = (
      dynamic_towers.gradients(dynamic_towers.make(inputs, training_mode=mode), inputs, budget=50.0)
      for mode in ('mask', 'skip'))
  dynamic_towers.same(skipped, masked, 1e-7)
  assert all(np.any(gradient != 0) for name, gradient in masked.items() if has_effect(name))


@pytest.mark.parametrize('activation', ['tanh', 'sigmoid', 'softmax'])
def test_every_weight_moves_in_two_steps(activation):
  """In the first step w_s is 0, so that the weights of messages between levels stay."""
  inputs = dynamic_towers.features()
  tower = dynamic_head.DynamicTower(CHANNELS, 2, activation=activation, dtype='float64')
  tower(inputs)
  start = {v.name: v.numpy() for v in tower.variables}
  optimizer = tf_keras.optimizers.legacy.SGD(0.01)
  for step in range(2):
    gradients = dynamic_towers.gradients(tower, inputs, budget=1.0)
    idle = [name for name, gradient in gradients.items()
            if has_effect(name) and not np.any(gradient != 0)]
    assert bool(idle) == (step == 0), idle
    assert all(('/scale/coarser' in name or '/scale/finer' in name) for name in idle
               if activation != 'softmax')
    optimizer.apply_gradients(zip(gradients.values(), tower.trainable_variables))
  for variable in tower.trainable_variables:
    assert np.all(np.isfinite(variable))
    assert np.any(variable != start[variable.name]) or not has_effect(variable.name)


def test_shut_gates_have_a_gradient_of_zero():
  inputs = dynamic_towers.features()
  tower = dynamic_towers.make(inputs)
  for block in tower.blocks:
    block.gates['depth'].conv.bias.assign([-50.0])
  for name, gradient in dynamic_towers.gradients(tower, inputs, budget=1.0).items():
    if '/depth' in name:
      np.testing.assert_array_equal(gradient, 0, err_msg=name)
    else:
      assert np.all(np.isfinite(gradient)), name
      assert np.any(gradient != 0) or not has_effect(name), name


@pytest.mark.parametrize('target', [0.0, 0.3])
def test_budget_pulls_cost_to_its_target(target):
  inputs = dynamic_towers.features('45')
  tower = dynamic_towers.make(inputs, num_blocks=1)
  optimizer = tf_keras.optimizers.legacy.SGD(0.5)
  distances = []
  for _ in range(8):
    with tf.GradientTape() as tape, routing.RoutingTape() as routes:
      tower(inputs, training=True)
      loss = budgets.budget_loss(routes.routing(), target, distance='absolute')
    variables = [v for v in tower.trainable_variables if 'gate' in v.name]
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
    distances.append(float(loss))
  # With a constant learning rate the cost oscillates around the target.
  assert min(distances) < 0.5 * distances[0]


def test_gates_start_open():
  inputs = dynamic_towers.features()
  tower = dynamic_head.DynamicTower(CHANNELS, 2, dtype='float64')
  _, record = dynamic_towers.run(tower, {level: 0.5 * x for level, x in inputs.items()})
  np.testing.assert_array_equal(record.executed, [float(record.maximum)] * 2)
  assert all(0.95 < np.mean(gate) < 1 for gate in record.gates.values())
  # w_s starts at 0: messages between levels have no effect.
  assert float(tower.blocks[0].scale.neighbor_weight) == 0
