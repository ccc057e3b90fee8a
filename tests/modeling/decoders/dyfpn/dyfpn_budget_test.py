"""DyFPN whose gates follow the budget of a call."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.decoders import dyfpn
from official_ext.ops import checks
from official_ext.ops import routing
from official_ext.tasks import initialization
import reference
import spies

CHANNELS = {'3': 8, '4': 5, '5': 12}
BRANCHES = ['1x1', '3x3', '5x5']
DEARNESS = {'A': np.array([8, 24]) / 24, 'B': np.array([1.0])}
BUDGETS = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], np.float32)


def _make(block='B', **gate):
  layer = dyfpn.DyFPN(
      block=block, gate={'budget_input': True, **gate}, branches=BRANCHES, min_level=3, max_level=5,
      num_filters=4, norm='none', name='part',
      input_specs={level: [None, None, None, depth] for level, depth in CHANNELS.items()})
  layer(reference.pyramid_inputs(CHANNELS, (16, 16)))
  return layer


def _trained(block):
  """Returns a layer with moving averages of some images, and these images."""
  layer, inputs = _make(block), reference.pyramid_inputs(CHANNELS, (16, 16), batch=6)
  spies.randomize(layer)
  for _ in range(50):
    layer(inputs, training=True)
  return layer, inputs


def _record(layer, inputs, budget, **options):
  with routing.RoutingTape() as tape, routing.spending(budget):
    outputs = layer(inputs, **options)
  return outputs, tape.routing()


@pytest.mark.parametrize('block', ['A', 'B'])
def test_decisions_equal_numpy_and_rise_from_all_shut_to_all_open(block):
  layer, inputs = _trained(block)
  logits = layer.gate(inputs).numpy().astype(np.float64)
  others = logits[..., 1:] - logits[..., :1]
  mean, variance, shifts = (
      {v.name.split('gate_budget/')[-1][:-2]: v.numpy() for v in layer.budget_variables}[name]
      for name in ('mean', 'variance', 'shifts'))
  paths, costs = others.shape[-1], []
  for number, budget in enumerate(BUDGETS):
    _, record = _record(layer, inputs, budget)
    with np.errstate(divide='ignore'):
      quantile = np.clip(np.log(budget / (1 - budget)) / 1.702, -1e6, 1e6)
    # The budgets are every second one of the tracked ones.
    moved = (quantile + shifts[2 * number])[:, None] * DEARNESS[block]
    scores = (others - mean) / np.sqrt(variance + 1e-5) + moved
    gates = np.eye(1 + paths)[np.argmax(np.pad(scores, [(0, 0), (0, 0), (1, 0)]), -1)]
    for index, level in enumerate(CHANNELS):
      wanted = gates[:, index] if block == 'A' else gates[:, index, 1]
      np.testing.assert_array_equal(record.gates[f'part/{level}'], wanted)
    costs.append(record.executed)
  np.testing.assert_array_equal(costs[0], np.full(6, record.minimum))
  np.testing.assert_array_equal(costs[-1], np.full(6, record.maximum))
  assert np.any(np.ptp(costs, axis=1) > 0)
  np.testing.assert_array_equal(_record(layer, inputs, np.nan)[1].executed, costs[-1])


def test_a_layer_runs_more_at_a_higher_budget():
  layer, inputs = _trained('B')
  costs = [_record(layer, inputs, budget)[1].executed for budget in np.linspace(0, 1, 9)]
  assert np.all(np.diff(costs, axis=0) >= 0) and len({float(np.mean(c)) for c in costs}) > 4


@pytest.mark.parametrize('block', ['A', 'B'])
def test_the_largest_threshold_shuts_all_gates_at_every_budget(block):
  layer, inputs = _trained(block)
  for budget in BUDGETS:
    with routing.shutting_gates(1.0):
      _, record = _record(layer, inputs, budget)
    np.testing.assert_array_equal(record.executed, np.full(6, record.minimum))


@pytest.mark.parametrize('inference', ['skip', 'mask'])
@pytest.mark.parametrize('block', ['A', 'B'])
def test_a_budget_of_each_image_is_what_the_image_gets_alone(block, inference):
  layer, inputs = _trained(block)
  layer.inference = inference
  together, record = _record(layer, inputs, BUDGETS)
  assert len(set(record.executed.numpy())) > 2
  for row, budget in enumerate(BUDGETS):
    one = {level: x[row:row + 1] for level, x in inputs.items()}
    alone, record_alone = _record(layer, one, budget)
    assert record_alone.executed[0] == record.executed[row]
    for level, x in together.items():
      np.testing.assert_allclose(x[row:row + 1], alone[level], atol=1e-5)


@pytest.mark.parametrize('block', ['A', 'B'])
def test_gradients_reach_the_gates_at_every_budget(block):
  layer, inputs = _trained(block)
  # A hidden unit may be shut for all images.
  variables = [v for v in layer.gate.trainable_variables if '/output_' in v.name]
  assert len(variables) == 3 + 3
  for budget in (0.1, 0.3, 0.5, 0.7, 0.9):
    with tf.GradientTape() as tape:
      _, record = _record(layer, inputs, budget, training=True)
      loss = tf.reduce_sum(record.expected / record.maximum)
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
      assert np.any(gradient != 0) and np.all(np.isfinite(gradient)), (budget, variable.name)


def test_a_checkpoint_without_the_option_starts_a_layer_with_it(tmp_path):
  plain, layer = _make(budget_input=False), _make()
  assert not plain.has_budget_input and not plain.router_variables
  assert len(layer.variables) == len(plain.variables) + 3
  saved = tf.train.Checkpoint(decoder=plain).save(str(tmp_path / 'plain'))
  initialization.load({'decoder': layer}, saved, 'decoder')
  for ours, theirs in zip(layer.gate.variables, plain.gate.variables):
    np.testing.assert_array_equal(ours, theirs)
  inputs = reference.pyramid_inputs(CHANNELS, (16, 16), batch=3)
  # Without a budget every gate is open, as the gates of a fresh layer without the option are.
  for ours, theirs in zip(layer(inputs).values(), plain(inputs).values()):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize('gate', [{'type': 'random'}, {'evaluation': 'random'}])
def test_random_paths_follow_no_budget(gate):
  with pytest.raises(checks.ArgumentError, match='^gate.budget_input is true') as error:
    _make(**gate)
  assert error.value.argument == 'gate.budget_input'
