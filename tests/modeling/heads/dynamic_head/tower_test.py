"""The dynamic tower: outputs against plain NumPy, the layer checks, export, two replicas."""
import pathlib
import re
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from official_ext.configs import components
from official_ext.modeling.heads import dynamic_head
from official_ext.modeling.layers import routed
from official_ext.ops import checks
from official_ext.ops import routing
from official_ext.ops import sparse_conv
from component import Component
import component
import dynamic_head_reference
import dynamic_towers
from dynamic_towers import ALL_LEVELS
from dynamic_towers import CHANNELS
import harness
import spies


@pytest.mark.parametrize('options', [
    {}, {'activation': 'sigmoid'}, {'activation': 'softmax'}, {'tau': 0.0}, {'coarse': True},
    {'scale_step': 'fixed'}, {'depth_step': 'fixed'}, {'scale_step': 'absent'},
    {'depth_step': 'absent'}, {'scale_step': 'fixed', 'depth_step': 'fixed'},
    {'norm_positions': 'all'}, {'depth_update': 'replace'},
    {'depth_update': 'replace', 'depth_step': 'fixed'}], ids=str)
def test_tower_equals_numpy(options):
  inputs = dynamic_towers.features()
  tower = dynamic_towers.make(inputs, inference='mask', **options)
  outputs, record = dynamic_towers.run(tower, inputs)
  renamed = {key.replace('_step', ''): value for key, value in options.items()}
  expected, gates = dynamic_head_reference.tower(
      dynamic_head_reference.named_weights(tower), inputs, 2, **renamed)
  dynamic_towers.same(outputs, expected)
  if not any(gates):
    assert record is None and not tower.is_routed and not tower.gate_names
    return
  dynamic_towers.same(record.gates, dynamic_towers.named(gates), 1e-6)
  assert list(record.gates) == [f'tower/{name}' for name in tower.gate_names]
  shares = np.concatenate([np.ravel(gate) for decided in gates for gate in decided.values()])
  if options.get('activation') in ('sigmoid', 'softmax'):
    assert np.all(shares > 0)
  else:
    assert 0.1 < np.mean(shares > 0) < 0.9


@pytest.mark.parametrize('levels', [ALL_LEVELS, '4', '35'])
def test_tower_on_other_levels_equals_numpy(levels):
  inputs = dynamic_towers.features(levels)
  tower = dynamic_towers.make(inputs)
  expected, _ = dynamic_head_reference.tower(
      dynamic_head_reference.named_weights(tower), inputs, 2)
  backwards = {level: inputs[level] for level in reversed(levels)}
  dynamic_towers.same(tower(backwards), expected)


def test_threshold_shuts_gates_at_inference_only():
  inputs = dynamic_towers.features()
  tower = dynamic_towers.make(inputs)
  open_outputs = tower(inputs, training=True)
  tower.gate_threshold = 0.4
  dynamic_towers.same(tower(inputs, training=True), open_outputs)
  outputs, record = dynamic_towers.run(tower, inputs)
  expected, gates = dynamic_head_reference.tower(
      dynamic_head_reference.named_weights(tower), inputs, 2, threshold=0.4)
  dynamic_towers.same(outputs, expected)
  dynamic_towers.same(record.gates, dynamic_towers.named(gates), 1e-6)
  assert np.any(np.abs(outputs['3'] - open_outputs['3']) > 1e-3)
  for own, threshold in ((0.4, 0.1), (0.0, 0.4)):  # The larger one counts.
    tower.gate_threshold = own
    with routing.shutting_gates(threshold):
      dynamic_towers.same(tower(inputs), outputs, 1e-6)
      dynamic_towers.same(tower(inputs, training=True), open_outputs)


@pytest.mark.parametrize('image', [0, 1])
def test_executed_is_what_the_operations_received(image):
  inputs = {level: x[image:image + 1] for level, x in dynamic_towers.features().items()}
  tower = dynamic_towers.make(dynamic_towers.features())
  with (spies.OperationSpy() as spy,
        mock.patch.object(sparse_conv, 'default_break_even', return_value=1.0)):
    _, record = dynamic_towers.run(tower, inputs)
  assert spy.multiply_adds == record.executed[0]
  assert record.minimum < record.executed[0] < record.maximum
  tower.inference = 'mask'
  with spies.OperationSpy() as spy:
    dynamic_towers.run(tower, inputs)
  assert spy.multiply_adds == record.maximum


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
  inputs = dynamic_towers.features('345', dtype=np.float32)
  expected = dynamic_towers.make(inputs, dtype='float32')
  tower = dynamic_towers.make(inputs, dtype=policy)
  tower.set_weights(expected.get_weights())
  with dynamic_towers.forced_gates(dynamic_towers.random_gates):
    outputs, record = dynamic_towers.run(tower, inputs)
    component.same(outputs, expected(inputs), tolerance, tolerance)
  assert {x.dtype for x in outputs.values()} == {dtype}
  assert {v.dtype for v in tower.variables} == {tf.float32}
  outputs, record = dynamic_towers.run(tower, inputs, training=True)
  assert {x.dtype for x in (*spies.costs_of(record), *record.gates.values())} == {tf.float32}
  assert all(np.all(np.isfinite(gradient)) for gradient in dynamic_towers.gradients(
      tower, inputs, budget=1.0).values())


@pytest.mark.parametrize('options, message', [
    ({'num_blocks': 0}, 'num_blocks is 0'), ({'tile_capacity': 0.0}, 'tile_capacity is 0.0'),
    ({'gate_threshold': 1.0}, 'gate_threshold is 1.0'),
    ({'scale_step': 'open'}, "scale_step is 'open'.*'gated', 'fixed', 'absent'"),
    ({'depth_step': None}, 'depth_step is None'),
    ({'norm_positions': 'some'}, "norm_positions is 'some'.*'active', 'all'"),
    ({'training_mode': 'tiles'}, "training_mode is 'tiles'.*'mask', 'skip'"),
    ({'inference': 'sparse'}, "inference is 'sparse'.*'skip', 'mask', 'tiles'"),
    ({'activation': 'relu'}, "activation is 'relu'"), ({'tau': -1.0}, 'tau is -1.0'),
    ({'scale_step': 'absent', 'depth_step': 'absent'}, 'leaves nothing'),
    ({'activation': 'softmax', 'scale_step': 'fixed'}, "needs scale_step 'gated', .* 'fixed'")])
def test_tower_refuses_wrong_options(options, message):
  with pytest.raises(checks.ArgumentError, match=message) as error:
    dynamic_head.DynamicTower(CHANNELS, **{'num_blocks': 1, **options})
  assert error.value.argument in options


def test_tower_refuses_wrong_inputs():
  inputs = dynamic_towers.features()
  with pytest.raises(ValueError, match="level '3' has shape .* 7\\].*change num_filters"):
    dynamic_head.DynamicTower(7)(inputs)
  tower = dynamic_towers.make(inputs)
  with pytest.raises(ValueError, match='built for levels 3, 4, 5; the input has 3, 5'):
    tower(dynamic_towers.features('35'))


def test_tower_is_registered():
  options = components.tower(type='dynamic').get().as_dict()
  tower = components.build_tower('dynamic', options, 16, 'classes')
  assert isinstance(tower, dynamic_head.DynamicTower)
  assert {key: tower.get_config()[key] for key in options} == options


def test_example_of_the_docs():
  docs = pathlib.Path(__file__).resolve().parents[4] / 'docs' / 'dynamic_head.md'
  example = re.search(r'```python\n(.*?)```', docs.read_text(encoding='utf-8'), re.DOTALL)[1]
  names = {}
  exec(compile(example, docs.name, 'exec'), names)
  assert {level: x.shape for level, x in names['results'].items()} == {
      '3': (2, 16, 16, 4), '4': (2, 8, 8, 4), '5': (2, 4, 4, 4)}
  assert all(np.all(np.isfinite(update)) for update in names['updates'])
  assert names['routes'].routing().executed.shape == (2,)


@pytest.mark.slow
def test_saved_model_and_compiled_function_equal_the_tower(tmp_path):
  """An exported function takes any batch and size, and returns cost with the outputs."""
  tower, inputs = PART.make(), PART.inputs()
  expected, record = dynamic_towers.run(tower, inputs)
  assert np.any(record.executed < record.maximum)

  def call(features):
    outputs, record = dynamic_towers.run(tower, features)
    return {**outputs, 'executed': record.executed}

  module = tf.Module()
  module.tower = tower
  module.serve = tf.function(call, autograph=False, input_signature=[{
      level: tf.TensorSpec([None, None, None, depth]) for level, depth in PART.channels.items()}])
  tf.saved_model.save(module, str(tmp_path / 'exported'))
  loaded = tf.saved_model.load(str(tmp_path / 'exported'))
  routed.set_inference(tower, 'mask')
  compiled = tf.function(call, autograph=False, jit_compile=True)
  for function in (loaded.serve, compiled):
    answer = dict(function(inputs))
    np.testing.assert_array_equal(answer.pop('executed'), record.executed)
    component.same(answer, expected, 1e-5, 1e-5)
  other = PART.inputs((50, 70), batch=3)
  routed.set_inference(tower, 'skip')
  component.same({level: loaded.serve(other)[level] for level in '345'}, tower(other), 1e-5, 1e-5)


@pytest.mark.slow
def test_another_process_loads_the_tower_and_trains_on_two_replicas(tmp_path):
  # In float64: in float32, sums over one batch and over its halves round too differently.
  harness.check_other_process([PART], [
      {'cls': f'{dynamic_head.__name__}:DynamicTower', 'channels': PART.channels,
       'options': {**PART.options, 'training_mode': mode, 'dtype': 'float64'}}
      for mode in ('mask', 'skip')], tmp_path)
