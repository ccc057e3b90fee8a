"""The dynamic tower against plain NumPy: outputs, gates, cost and budget; what it skips."""
import contextlib
import pathlib
import re
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.heads import dynamic_head
from official_ext.modeling.layers import spatial_gates
from official_ext.ops import routing
from component import Component
import component
import dynamic_head_reference
import harness
import reference
import spies

CHANNELS = 6
ALL_LEVELS = '34567'
SIZE = (60, 84)


def _inputs(levels='345', batch=2, seed=0, size=SIZE, dtype=np.float64):
  """Features around 0, so that gates come out both ways."""
  channels = dict.fromkeys(levels, CHANNELS)
  features = reference.pyramid_inputs(channels, size, batch, seed)
  return {level: (2 * x - 1).astype(dtype) for level, x in features.items()}


def _tower(inputs, seed=0, **options):
  options = {'num_filters': CHANNELS, 'num_blocks': 2, 'dtype': 'float64', 'name': 'tower',
             **options}
  tower = dynamic_head.DynamicTower(**options)
  tower(inputs)
  spies.randomize(tower, seed)
  for variable in tower.variables:
    if 'gate' in variable.name and 'bias' in variable.name:
      variable.assign_sub(tf.fill(variable.shape, tf.constant(0.6, variable.dtype)))
  return tower


def _run(tower, inputs, training=False):
  with routing.RoutingTape() as tape:
    outputs = tower(inputs, training=training)
  return outputs, tape.routing()


def _same(ours, expected, tolerance=1e-8):
  assert sorted(ours) == sorted(expected)
  for key, value in expected.items():
    np.testing.assert_allclose(ours[key], value, tolerance, tolerance, err_msg=str(key))


def _named(gates):
  return {f'tower/block_{number}/{path}_{level}': gate
          for number, decided in enumerate(gates) for (path, level), gate in decided.items()}


@contextlib.contextmanager
def _forced(decide):
  """Makes every gate return `decide(name, features)`, `[batch, height, width, 1]`."""

  def call(self, features, paths=None, threshold=0.0):
    del paths, threshold
    return tf.cast(decide(self.name, features), self.dtype)

  with mock.patch.object(spatial_gates.SpatialGate, 'call', call):
    yield


def _random_gates(name, features, shut=()):
  """Zeros and values, different in every image; nothing opens for some images."""
  rng = np.random.default_rng([sum(map(ord, name)), *features.shape[1:3]])
  gate = np.maximum(rng.uniform(-1, 1, [8, *features.shape[1:3], 1]), 0)[:len(features)]
  gate[list(shut)] = 0
  return gate


@pytest.mark.parametrize('options', [
    {}, {'activation': 'sigmoid'}, {'activation': 'softmax'}, {'tau': 0.0}, {'coarse': True},
    {'scale_step': 'fixed'}, {'depth_step': 'fixed'}, {'scale_step': 'absent'},
    {'depth_step': 'absent'}, {'scale_step': 'fixed', 'depth_step': 'fixed'},
    {'norm_positions': 'all'}], ids=str)
def test_tower_equals_numpy(options):
  inputs = _inputs()
  tower = _tower(inputs, inference='mask', **options)
  outputs, record = _run(tower, inputs)
  renamed = {key.replace('_step', ''): value for key, value in options.items()}
  expected, gates = dynamic_head_reference.tower(
      dynamic_head_reference.weights_of(tower), inputs, 2, **renamed)
  _same(outputs, expected)
  if not any(gates):
    assert record is None and not tower.is_routed and not tower.gate_names
    return
  _same(record.gates, _named(gates), 1e-6)
  assert list(record.gates) == [f'tower/{name}' for name in tower.gate_names]
  shares = np.concatenate([np.ravel(gate) for decided in gates for gate in decided.values()])
  if options.get('activation') in ('sigmoid', 'softmax'):
    assert np.all(shares > 0)
  else:
    assert 0.1 < np.mean(shares > 0) < 0.9


@pytest.mark.parametrize('levels', [ALL_LEVELS, '4', '35'])
def test_tower_on_other_levels_equals_numpy(levels):
  inputs = _inputs(levels)
  tower = _tower(inputs)
  expected, _ = dynamic_head_reference.tower(
      dynamic_head_reference.weights_of(tower), inputs, 2)
  backwards = {level: inputs[level] for level in reversed(levels)}
  _same(tower(backwards), expected)


def test_threshold_shuts_gates_at_inference_only():
  inputs = _inputs()
  tower = _tower(inputs)
  open_outputs = tower(inputs, training=True)
  tower.gate_threshold = 0.4
  _same(tower(inputs, training=True), open_outputs)
  outputs, record = _run(tower, inputs)
  expected, gates = dynamic_head_reference.tower(
      dynamic_head_reference.weights_of(tower), inputs, 2, threshold=0.4)
  _same(outputs, expected)
  _same(record.gates, _named(gates), 1e-6)
  assert np.any(np.abs(outputs['3'] - open_outputs['3']) > 1e-3)


@pytest.mark.parametrize('options', [{}, {'coarse': True}])
def test_cost_equals_numpy(options):
  inputs = _inputs(batch=3)
  tower = _tower(inputs, **options)
  _, gates = dynamic_head_reference.tower(
      dynamic_head_reference.weights_of(tower), inputs, 2, **options)
  sizes = {level: np.prod(x.shape[1:3]) for level, x in inputs.items()}
  executed, minimum, maximum, ratio = dynamic_head_reference.cost(gates, sizes, CHANNELS)
  for inference in ('skip', 'mask'):
    routing.set_inference(tower, inference)
    _, record = _run(tower, inputs)
    np.testing.assert_allclose(record.executed, executed, 1e-7)
    np.testing.assert_allclose([record.minimum, record.maximum, record.dense],
                               [minimum, maximum, maximum], 1e-7)
    np.testing.assert_allclose(record.expected, minimum + ratio * (maximum - minimum), 1e-6)
    np.testing.assert_allclose(
        routing.budget_loss(record, 0, distance='absolute'), np.mean(ratio), 1e-5)
  assert minimum <= executed.min() and executed.max() < maximum
  assert len(set(executed)) > 1 or 'coarse' in options
  assert {x.dtype for x in (*record[1:6], *record.gates.values())} == {tf.float32}


def test_budget_of_a_few_positions_by_hand():
  """One level of 3 x 4 with one gate of 0.5 in a corner: eq. 4 written out."""
  inputs = {'3': np.zeros([1, 3, 4, CHANNELS])}
  tower = _tower(inputs, num_blocks=1)
  corner = np.zeros([1, 3, 4, 1])
  corner[0, 0, 0] = 0.5
  with _forced(lambda name, features: corner):
    _, record = _run(tower, inputs)
  # The second convolution runs on one position, the first on the four around it.
  np.testing.assert_allclose(
      routing.budget_loss(record, 0, distance='absolute'), 0.5 * (1 + 4) / (2 * 12), 1e-6)
  large = 9 * CHANNELS**2
  np.testing.assert_array_equal(
      [record.executed[0], record.minimum, record.maximum],
      [9 * CHANNELS * 12 + 5 * large, 9 * CHANNELS * 12, 9 * CHANNELS * 12 + 24 * large])


@pytest.mark.parametrize('value, bound', [(1.0, 'maximum'), (0.0, 'minimum')])
def test_cost_of_all_open_and_all_shut(value, bound):
  inputs = _inputs()
  tower = _tower(inputs)
  with _forced(lambda name, features: np.full([*features.shape[:3], 1], value)):
    _, record = _run(tower, inputs)
  for cost in (record.executed, record.expected):
    np.testing.assert_array_equal(cost, [float(getattr(record, bound))] * 2)


@pytest.mark.parametrize('options, saves', [
    ({'norm_positions': 'all'}, True), ({'activation': 'softmax'}, False),
    ({'depth_step': 'fixed'}, False)])
def test_cost_where_nothing_can_be_skipped(options, saves):
  inputs = _inputs()
  _, record = _run(_tower(inputs, **options), inputs)
  np.testing.assert_array_equal(record.executed, [float(record.maximum)] * 2)
  # The budget pulls on gates of norms over all positions, as the reference's training does.
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
    _, record = _run(tower, features)
    return record.minimum, record.maximum

  # Only the bounds are fetched: the tower does not run.
  minimum, maximum = bounds({level: tf.zeros([1, *size, 256]) for level, size in sizes.items()})
  assert locations == 22_400
  assert round(16 * float(minimum) / 1e9, 2) == round(1.855 + 1.029, 2)
  np.testing.assert_allclose(maximum - minimum, locations * 2 * 9 * 256**2)


@pytest.mark.parametrize('options', [{}, {'coarse': True}, {'scale_step': 'absent'}])
def test_ways_to_run_agree(options):
  inputs = _inputs(batch=3)
  tower = _tower(inputs, **options)
  masked = tower(inputs, training=True)
  records = [_run(tower, inputs, training=True)[1]]
  tower = dynamic_head.DynamicTower.from_config(
      {**tower.get_config(), 'training_execution': 'sparse'})
  tower(inputs)
  tower.set_weights(_tower(inputs, **options).get_weights())
  for training, inference in [(True, 'skip'), (False, 'skip'), (False, 'mask'),
                              (False, 'tiles')]:
    tower.inference = inference
    outputs, record = _run(tower, inputs, training)
    _same(outputs, masked)
    records.append(record)
  for record in records[1:]:
    np.testing.assert_array_equal(record.executed, records[0].executed)


def test_tiles_without_room_are_counted():
  inputs = _inputs(batch=3)
  tower = _tower(inputs, inference='tiles', tile_capacity=0.3)
  with _forced(lambda name, features: _random_gates(name, features, shut=[1])):
    _, record = _run(tower, inputs)
    _, trained = _run(tower, inputs, training=True)
  dropped = record.measures['tower/dropped_tiles']
  # Of the 4 x 6, 2 x 3 and 1 x 2 tiles of 2 x 2 positions 0.3 are kept, rounded up: 8, 2 and 1
  # in each of two blocks.
  np.testing.assert_array_equal(dropped, [2 * (16 + 4 + 1), 0, 2 * (16 + 4 + 1)])
  np.testing.assert_array_equal(trained.measures['tower/dropped_tiles'], [0, 0, 0])
  assert tower.measure_names == ['dropped_tiles'] == list(tower.measure_limits)
  assert _tower(inputs).measure_names == []


def test_an_image_does_not_depend_on_its_company():
  inputs = _inputs(batch=5)
  tower = _tower(inputs)
  together, record = _run(tower, inputs)
  order = [3, 0, 4, 1, 2]
  shuffled, _ = _run(tower, {level: x[order] for level, x in inputs.items()})
  _same(shuffled, {level: tf.gather(x, order) for level, x in together.items()})
  for image in range(5):
    alone, own = _run(tower, {level: x[[image]] for level, x in inputs.items()})
    _same(alone, {level: x[image:image + 1] for level, x in together.items()})
    np.testing.assert_array_equal(own.executed[0], record.executed[image])


@pytest.mark.parametrize('inference', ['skip', 'mask'])
def test_not_a_number_where_nothing_runs(inference):
  """Weights that an image does not use are poisoned: it stays as it is, others do not."""
  inputs = _inputs(batch=3)
  tower = _tower(inputs, inference=inference)

  def decide(name, features):
    return _random_gates(name, features, shut=[1] if name == 'depth_gate' else [])

  with _forced(decide):
    healthy = tower(inputs)
    for block in tower.blocks:
      for variable in block.depth.variables:
        variable.assign(np.full(variable.shape, np.nan))
    poisoned = tower(inputs)
  _same({level: x[1] for level, x in poisoned.items()},
        {level: x[1] for level, x in healthy.items()})
  assert np.any(np.isnan(poisoned['3'][0])) and np.any(np.isnan(poisoned['3'][2]))


def _loss(tower, inputs, training=True, budget=0.0):
  with routing.RoutingTape() as tape:
    outputs = tower(inputs, training=training)
  rng = np.random.default_rng(7)
  loss = tf.add_n([tf.reduce_sum(tf.cast(x, tf.float64) * rng.normal(size=x.shape))
                   for x in outputs.values()])
  share = routing.budget_loss(tape.routing(), 0, distance='absolute')
  return loss + budget * tf.cast(share, tf.float64)


def _gradients(tower, *args, **options):
  with tf.GradientTape() as tape:
    loss = _loss(tower, *args, **options)
  return {v.name: gradient for v, gradient in zip(
      tower.trainable_variables, tape.gradient(loss, tower.trainable_variables))}


def test_training_sparse_equals_training_dense():
  inputs = _inputs()
  dense, sparse = (_tower(inputs, training_execution=way) for way in ('mask', 'sparse'))
  ours, theirs = (_gradients(tower, inputs, budget=50.0) for tower in (sparse, dense))
  _same(ours, theirs, 1e-7)
  assert all(np.any(gradient != 0) for gradient in theirs.values())


@pytest.mark.parametrize('activation', ['tanh', 'sigmoid', 'softmax'])
def test_every_weight_moves_in_two_steps(activation):
  """In the first the messages between levels weigh 0, which moves the weight alone."""
  inputs = _inputs()
  tower = dynamic_head.DynamicTower(CHANNELS, 2, activation=activation, dtype='float64')
  tower(inputs)
  start = {v.name: v.numpy() for v in tower.variables}
  optimizer = tf_keras.optimizers.legacy.SGD(0.01)
  for step in range(2):
    gradients = _gradients(tower, inputs, budget=1.0)
    idle = [name for name, gradient in gradients.items() if not np.any(gradient != 0)]
    assert bool(idle) == (step == 0), idle
    assert all(('/scale/coarser' in name or '/scale/finer' in name) for name in idle
               if activation != 'softmax')
    optimizer.apply_gradients(zip(gradients.values(), tower.trainable_variables))
  for variable in tower.trainable_variables:
    assert np.all(np.isfinite(variable)) and np.any(variable != start[variable.name])


def test_shut_gates_have_a_gradient_of_zero():
  inputs = _inputs()
  tower = _tower(inputs)
  for block in tower.blocks:
    block.gates['depth'].conv.bias.assign([-50.0])
  for name, gradient in _gradients(tower, inputs, budget=1.0).items():
    if '/depth' in name:
      np.testing.assert_array_equal(gradient, 0, err_msg=name)
    else:
      assert np.all(np.isfinite(gradient)) and np.any(gradient != 0), name


@pytest.mark.parametrize('target', [0.0, 0.3])
def test_budget_pulls_cost_to_its_target(target):
  inputs = _inputs('45')
  tower = _tower(inputs, num_blocks=1)
  optimizer = tf_keras.optimizers.legacy.SGD(0.5)
  distances = []
  for _ in range(8):
    with tf.GradientTape() as tape, routing.RoutingTape() as routes:
      tower(inputs, training=True)
      loss = routing.budget_loss(routes.routing(), target, distance='absolute')
    variables = [v for v in tower.trainable_variables if 'gate' in v.name]
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
    distances.append(float(loss))
  # At a constant rate it steps over the target, and back.
  assert min(distances) < 0.5 * distances[0]


def test_gates_start_open():
  inputs = _inputs()
  tower = dynamic_head.DynamicTower(CHANNELS, 2, dtype='float64')
  _, record = _run(tower, {level: 0.5 * x for level, x in inputs.items()})
  np.testing.assert_array_equal(record.executed, [float(record.maximum)] * 2)
  assert all(0.95 < np.mean(gate) < 1 for gate in record.gates.values())
  # At the start messages weigh nothing, and blocks pass on what is positive.
  assert float(tower.blocks[0].scale.neighbor_weight) == 0


PART = Component(
    cls=dynamic_head.DynamicTower,
    options={'num_filters': 8, 'num_blocks': 1, 'tau': 1.0, 'gate_threshold': 0.0},
    channels=dict.fromkeys('345', 8),
    trainable=2 * (576 + 16) + 73 + 2 * (72 + 8 + 16 + 73) + 2, non_trainable=0,
    names=r'part/block_\d/((scale|depth)/\w+|(coarser|finer|depth)_gate/conv/(kernel|bias)):0',
    output_levels='345')


@pytest.mark.parametrize('check', [
    harness.check_config, harness.check_call_modes, harness.check_sizes, harness.check_weights,
    pytest.param(harness.check_saving, marks=pytest.mark.slow)])
def test_tower_passes_the_layer_checks(check, tmp_path):
  check(PART, tmp_path)


@pytest.mark.parametrize('policy, dtype, tolerance', [
    ('mixed_float16', tf.float16, 0.02), ('mixed_bfloat16', tf.bfloat16, 0.15)])
def test_mixed_precision(policy, dtype, tolerance):
  inputs = _inputs('345', dtype=np.float32)
  expected = _tower(inputs, dtype='float32')
  tower = _tower(inputs, dtype=policy)
  tower.set_weights(expected.get_weights())
  with _forced(_random_gates):
    outputs, record = _run(tower, inputs)
    component.same(outputs, expected(inputs), tolerance, tolerance)
  assert {x.dtype for x in outputs.values()} == {dtype}
  assert {v.dtype for v in tower.variables} == {tf.float32}
  outputs, record = _run(tower, inputs, training=True)
  assert {x.dtype for x in (*record[1:6], *record.gates.values())} == {tf.float32}
  assert all(np.all(np.isfinite(gradient)) for gradient in _gradients(
      tower, inputs, budget=1.0).values())


@pytest.mark.parametrize('options, message', [
    ({'num_blocks': 0}, 'num_blocks is 0'), ({'tile_capacity': 0.0}, 'tile_capacity is 0.0'),
    ({'gate_threshold': 1.0}, 'gate_threshold is 1.0'),
    ({'scale_step': 'open'}, "scale_step is 'open'.*gated, fixed, absent"),
    ({'depth_step': None}, 'depth_step is None'),
    ({'norm_positions': 'some'}, "norm_positions is 'some'.*active, all"),
    ({'training_execution': 'tiles'}, "training_execution is 'tiles'.*mask, sparse"),
    ({'inference': 'sparse'}, "inference is 'sparse'.*skip, mask, tiles"),
    ({'activation': 'relu'}, "activation is 'relu'"), ({'tau': -1.0}, 'tau is -1.0'),
    ({'scale_step': 'absent', 'depth_step': 'absent'}, 'leaves nothing'),
    ({'activation': 'softmax', 'scale_step': 'fixed'}, 'needs head.tower.dynamic.scale_step')])
def test_tower_refuses_wrong_options(options, message):
  with pytest.raises(ValueError, match=message):
    dynamic_head.DynamicTower(CHANNELS, **{'num_blocks': 1, **options})


def test_tower_refuses_wrong_inputs():
  inputs = _inputs()
  with pytest.raises(ValueError, match="level '3' has shape .* 7\\].*change num_filters"):
    dynamic_head.DynamicTower(7)(inputs)
  tower = _tower(inputs)
  with pytest.raises(ValueError, match='built for levels 3, 4, 5; the input has 3, 5'):
    tower(_inputs('35'))


def test_tower_is_registered():
  options = components.tower(type='dynamic').get().as_dict()
  tower = components.build_tower('dynamic', options, 16, 'classes')
  assert isinstance(tower, dynamic_head.DynamicTower)
  assert {key: tower.get_config()[key] for key in options} == options


def test_example_of_the_docs():
  docs = pathlib.Path(__file__).resolve().parents[3] / 'docs' / 'dynamic_head.md'
  example = re.search(r'```python\n(.*?)```', docs.read_text(encoding='utf-8'), re.DOTALL)[1]
  names = {}
  exec(compile(example, docs.name, 'exec'), names)  # pylint: disable=exec-used
  assert {level: x.shape for level, x in names['results'].items()} == {
      '3': (2, 16, 16, 4), '4': (2, 8, 8, 4), '5': (2, 4, 4, 4)}
  assert all(np.all(np.isfinite(update)) for update in names['updates'])
  assert names['routes'].routing().executed.shape == (2,)


@pytest.mark.slow
def test_saved_model_and_compiled_function_equal_the_tower(tmp_path):
  """Export keeps batch and sizes open, and cost with the outputs."""
  tower, inputs = PART.make(), PART.inputs()
  expected, record = _run(tower, inputs)
  assert np.any(record.executed < record.maximum)

  def call(features):
    outputs, record = _run(tower, features)
    return {**outputs, 'executed': record.executed}

  module = tf.Module()
  module.tower = tower
  module.serve = tf.function(call, autograph=False, input_signature=[{
      level: tf.TensorSpec([None, None, None, depth]) for level, depth in PART.channels.items()}])
  tf.saved_model.save(module, str(tmp_path / 'exported'))
  served = tf.saved_model.load(str(tmp_path / 'exported')).serve
  routing.set_inference(tower, 'mask')
  compiled = tf.function(call, autograph=False, jit_compile=True)
  for function in (served, compiled):
    answer = dict(function(inputs))
    np.testing.assert_array_equal(answer.pop('executed'), record.executed)
    component.same(answer, expected, 1e-5, 1e-5)
  other = PART.inputs((50, 70), batch=3)
  routing.set_inference(tower, 'skip')
  component.same({level: served(other)[level] for level in '345'}, tower(other), 1e-5, 1e-5)


@pytest.mark.slow
def test_another_process_loads_the_tower(tmp_path):
  harness.check_fresh_process([PART], tmp_path)


@pytest.mark.slow
def test_two_replicas_equal_one_device():
  harness.check_two_replicas([
      {'cls': f'{dynamic_head.__name__}:DynamicTower', 'channels': PART.channels,
       'options': {**PART.options, 'training_execution': way}} for way in ('mask', 'sparse')])
