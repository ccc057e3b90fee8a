"""Dynamic towers whose gates follow the budget of a call."""
import re

import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.heads import dynamic_head
from official_ext.modeling.heads.dynamic_head import gate_budget
from official_ext.ops import checks
from official_ext.ops import routing
from official_ext.tasks import initialization
import dynamic_head_reference
import dynamic_towers
import harness
from dynamic_towers import ALL_LEVELS

BUDGETS = np.array([0.0, 0.25, 0.5, 0.77, 1.0], np.float32)


def _make(levels='345', **options):
  """Returns a tower with plausible averages, shifts of its own, and features."""
  inputs = dynamic_towers.features(levels, len(BUDGETS))
  tower = dynamic_towers.make(inputs, budget_input=True, **options)
  for variable in tower.router_variables:
    variable.assign(tf.zeros_like(variable))
  with routing.spending(0.5):
    tower(inputs, training=True)
  rng = np.random.default_rng(3)
  for variable in tower.router_variables:
    spread = 0.3 if 'shifts' in variable.name else 0.1 * np.abs(variable)
    variable.assign_add(rng.normal(0, spread, variable.shape))
  return tower, inputs


def _run(tower, inputs, budget, **options):
  with routing.spending(budget):
    return dynamic_towers.run(tower, inputs, **options)


def _share(record, cost):
  return (cost - record.minimum) / (record.maximum - record.minimum)


@pytest.mark.parametrize('levels, options', [
    (ALL_LEVELS, {}), ('4', {}), ('345', {'coarse': True}), ('345', {'scale_step': 'absent'}),
    ('345', {'gate_threshold': 0.4}), ('345', {'depth_update': 'replace'})], ids=str)
def test_a_budget_of_each_image_equals_numpy(levels, options):
  tower, inputs = _make(levels, **options)
  outputs, record = _run(tower, inputs, BUDGETS)
  renamed = {key.replace('_step', '').replace('gate_', ''): value
             for key, value in options.items()}
  expected, gates = dynamic_head_reference.tower(
      dynamic_head_reference.named_weights(tower), inputs, 2, budgets=BUDGETS.astype(np.float64),
      **renamed)
  dynamic_towers.same(outputs, expected, 1e-5)
  dynamic_towers.same(record.gates, dynamic_towers.named(gates), 1e-4)
  shares = _share(record, record.executed).numpy()
  assert shares[0] == 0 and shares[-1] == 1
  assert 0.02 < shares[2] < 0.98 or 'coarse' in options


@pytest.mark.parametrize('options', [
    {}, {'coarse': True, 'gate_threshold': 0.3}, {'depth_update': 'replace'}], ids=str)
def test_modes_agree_and_an_image_gets_what_it_gets_alone(options):
  tower, inputs = _make(**options)
  outputs, record = _run(tower, inputs, BUDGETS)
  for inference in ('mask', 'tiles'):
    tower.inference = inference
    others, other_record = _run(tower, inputs, BUDGETS)
    dynamic_towers.same(others, outputs)
    np.testing.assert_array_equal(other_record.executed, record.executed)
  tower.inference = 'skip'
  for row, budget in enumerate(BUDGETS):
    alone, alone_record = _run(
        tower, {level: x[row:row + 1] for level, x in inputs.items()}, budget)
    dynamic_towers.same(alone, {level: x[row:row + 1] for level, x in outputs.items()})
    assert alone_record.executed[0] == record.executed[row]


def _trained(steps=80):
  """Returns a tower whose averages and shifts have seen its features, and a batch of these."""
  inputs = dynamic_towers.features('34', 8, size=(128, 128), dtype=np.float32)
  tower = dynamic_towers.make(inputs, budget_input=True, dtype='float32')
  for variable in tower.router_variables:
    variable.assign(tf.zeros_like(variable))
  rng = np.random.default_rng(0)

  @tf.function(autograph=False)
  def step(features, budget):
    with routing.spending(budget):
      tower(features, training=True)

  for number in range(steps):
    rows = rng.choice(8, 3, replace=False)
    budget = tf.constant(1.0 if number % 4 == 3 else rng.uniform(0.1, 0.95), tf.float32)
    step({level: tf.gather(x, rows) for level, x in inputs.items()}, budget)
  return tower, inputs


def test_the_share_that_runs_is_the_budget():
  tower, inputs = _trained()
  shares = []
  budgets = np.linspace(0.1, 1, 10, dtype=np.float32)
  for budget in budgets:
    _, record = _run(tower, inputs, budget)
    shares.append(np.mean(_share(record, record.executed)))
    # The expected cost equals the executed cost, except for messages between levels.
    np.testing.assert_allclose(np.mean(_share(record, record.expected)), shares[-1], atol=0.02)
  np.testing.assert_allclose(shares, budgets, atol=0.04)
  assert np.all(np.diff(shares) > 0)


@pytest.mark.parametrize('budget', [0.1, 0.3, 0.5, 0.7, 0.9])
def test_gradients_reach_the_gates_at_every_budget(budget):
  tower, inputs = _make()
  kernels = [v for v in tower.trainable_variables if re.search('gate/conv/kernel', v.name)]
  assert len(kernels) == 2 * 3
  with tf.GradientTape(persistent=True) as tape:
    outputs, record = _run(tower, inputs, budget, training=True)
    share = tf.reduce_sum(_share(record, record.expected))
    value = tf.add_n([tf.reduce_sum(x**3) for x in outputs.values()])
  for loss in (share, value):
    for kernel, gradient in zip(kernels, tape.gradient(loss, kernels)):
      assert np.all(np.isfinite(gradient)) and np.any(gradient != 0), kernel.name


def test_training_modes_agree():
  outputs = {}
  for mode in ('mask', 'skip'):
    tower, inputs = _make(training_mode=mode)
    outputs[mode], record = _run(tower, inputs, 0.4, training=True)
    shares = _share(record, record.executed)
    assert 0.1 < np.min(shares) and np.max(shares) < 0.9
    assert len(set(shares.numpy())) > 1
  dynamic_towers.same(outputs['skip'], outputs['mask'])


def test_without_a_budget_every_gate_is_one_and_a_plain_checkpoint_starts_the_tower(tmp_path):
  inputs = dynamic_towers.features()
  plain = dynamic_towers.make(inputs, inference='mask')
  tower = dynamic_head.DynamicTower.from_config({**plain.get_config(), 'budget_input': True})
  tower(inputs)
  saved = tf.train.Checkpoint(head=plain).save(str(tmp_path / 'plain'))
  initialization.load({'head': tower}, saved, 'head')
  assert len(tower.router_variables) == len(tower.variables) - len(plain.variables) == 2 * 9
  assert not plain.router_variables and not plain.has_budget_input and tower.has_budget_input
  with dynamic_towers.forced_gates(lambda name, own: np.ones([*own.shape[:3], 1])):
    expected, _ = dynamic_towers.run(plain, inputs)
  outputs, record = dynamic_towers.run(tower, inputs)
  dynamic_towers.same(outputs, expected, 1e-6)
  np.testing.assert_array_equal(record.executed, [float(record.maximum)] * 2)


def test_layer_contract():
  rng = np.random.default_rng(0)
  logits = {level: rng.normal(size=[2, 6, 8, 1]).astype(np.float32) for level in '34'}
  harness.run_layer_checks(
      gate_budget.GateBudget, {'levels': ['3', '4'], 'is_residual': True}, logits, 0)


def test_gates_are_float32_under_mixed_precision():
  inputs = dynamic_towers.features(dtype=np.float32)
  tower = dynamic_towers.make(inputs, budget_input=True, dtype='mixed_bfloat16')
  assert {variable.dtype for variable in tower.variables} == {tf.float32}
  for training in (True, False):
    outputs, record = _run(tower, inputs, 0.5, training=training)
    assert {x.dtype for x in outputs.values()} == {tf.bfloat16}
    assert {gate.dtype for gate in record.gates.values()} == {tf.float32}


@pytest.mark.parametrize('options', [
    {'activation': 'sigmoid'}, {'activation': 'softmax'}, {'depth_step': 'fixed'},
    {'norm_positions': 'all'}])
def test_refuses_gates_that_can_follow_no_budget(options):
  with pytest.raises(checks.ArgumentError, match='^budget_input is true') as error:
    dynamic_head.DynamicTower(8, budget_input=True, **options)
  assert error.value.argument == 'budget_input'
