"""Checks of every routed network: skipping changes no number, and cost is that of what ran."""
import contextlib

import numpy as np
import pytest
import tensorflow as tf

from official_ext.losses import budgets
from official_ext.modeling.layers import routed
from official_ext.ops import multiply_adds
from official_ext.ops import routing
import routed_adapters
import spies

ALL = list(routed_adapters.ADAPTERS)
GATED = [name for name in ALL if name != 'ifpn']


@pytest.fixture(scope='module', params=ALL)
def network(request):
  return _made(request.param)


@pytest.fixture(scope='module', params=GATED)
def gated(request):
  return _made(request.param)


def _made(name):
  adapter = routed_adapters.ADAPTERS[name]
  return adapter, adapter.make()


def _same(first, second):
  """Equal to the rounding of float32: the order of sums depends on how many images run together."""
  assert sorted(first) == sorted(second)
  for level in first:
    np.testing.assert_allclose(first[level], second[level], 2e-5, 2e-5, err_msg=f'level {level}')


@contextlib.contextmanager
def _inference(layer, mode):
  kept, layer.inference = layer.inference, mode
  yield
  layer.inference = kept


@contextlib.contextmanager
def _kept_weights(layer):
  weights = layer.get_weights()
  yield
  layer.set_weights(weights)


@pytest.mark.parametrize('size', [0, 1])
def test_every_mode_gives_the_same_outputs_gates_and_cost(gated, size):
  adapter, layer = gated
  inputs = adapter.inputs(adapter.sizes[size])
  skipped, record = adapter.run(layer, inputs)
  assert len(set(np.asarray(record.executed))) > 1, 'all images cost the same'
  runs = []
  for mode in adapter.inference_modes:
    with _inference(layer, mode):
      runs.append(adapter.run(layer, inputs))
  if adapter.same_in_training:
    runs.append(adapter.run(layer, inputs, training=True))
  for outputs, other in runs:
    _same(outputs, skipped)
    np.testing.assert_array_equal(other.executed, record.executed)
    for name, gate in record.gates.items():
      np.testing.assert_allclose(other.gates[name], gate, 1e-4, 1e-5, err_msg=name)


def test_an_image_does_not_depend_on_who_shares_its_batch(network):
  adapter, layer = network
  inputs = adapter.inputs()
  together, record = adapter.run(layer, inputs)
  count = adapter.batch(inputs)
  order = np.random.default_rng(0).permutation(count)
  shuffled, _ = adapter.run(layer, adapter.take(inputs, order))
  _same(shuffled, {level: x[order] for level, x in together.items()})
  for row in range(count):
    alone, own = adapter.run(layer, adapter.take(inputs, [row]))
    _same(alone, {level: x[[row]] for level, x in together.items()})
    assert own.executed[0] == record.executed[row]


def test_an_empty_batch_runs(network):
  adapter, layer = network
  inputs = adapter.inputs()
  outputs, record = adapter.run(layer, adapter.take(inputs, np.arange(0)))
  expected, _ = adapter.run(layer, adapter.take(inputs, [0]))
  # Heights and widths may differ: TensorFlow's convolutions of no images ignore strides.
  assert {level: (len(x), x.shape[-1]) for level, x in outputs.items()} == {
      level: (0, x.shape[-1]) for level, x in expected.items()}
  assert record.executed.shape == (0,)


def test_weights_that_an_image_does_not_need_change_nothing(gated):
  adapter, layer = gated
  inputs = adapter.inputs()
  with adapter.poisonable():
    healthy, record = adapter.run(layer, inputs)
    for row in adapter.poisoned_rows():
      with _kept_weights(layer):
        assert adapter.poison(layer, inputs, row)
        poisoned, again = adapter.run(layer, inputs)
      _same({level: x[row] for level, x in poisoned.items()},
            {level: x[row] for level, x in healthy.items()})
      assert again.executed[row] == record.executed[row]
      # Positive control: other images need what this one does not.
      assert not all(np.all(np.isfinite(x)) for x in poisoned.values())


def _fixed_cost(adapter, layer, inputs):
  """Multiply-adds of one image that no gate decides about and no layer records."""
  one = adapter.take(inputs, [0])

  @tf.function(autograph=False)
  def traced(features):
    with routing.RoutingTape() as tape:
      outputs = adapter.call(layer, features, training=False)
    return outputs, tape.routing().all_branches

  with _inference(layer, 'mask'):
    function = traced.get_concrete_function(tf.nest.map_structure(tf.convert_to_tensor, one))
  flat = tf.nest.flatten(tf.nest.map_structure(tf.convert_to_tensor, one))
  return multiply_adds.count_graph(function.graph) - float(function(*flat)[1])


@pytest.mark.parametrize('size', [0, 1])
def test_cost_is_that_of_the_operations_that_ran(gated, size):
  adapter, layer = gated
  inputs = adapter.inputs(adapter.sizes[size])
  count = adapter.batch(inputs)
  with _kept_weights(layer):
    fixed = _fixed_cost(adapter, layer, inputs)
  with adapter.always_skips(), spies.OperationSpy() as spy:
    _, record = adapter.run(layer, inputs)
  assert spy.multiply_adds == count * fixed + np.sum(np.asarray(record.executed, np.float64))
  with _inference(layer, 'mask'), spies.OperationSpy() as spy:
    adapter.run(layer, inputs)
  assert spy.multiply_adds == count * (fixed + float(record.all_branches))
  assert np.all((record.executed >= record.minimum) & (record.executed <= record.maximum))


@pytest.mark.parametrize('is_open, bound', [(True, 'maximum'), (False, 'minimum')])
def test_all_gates_open_or_shut_cost_exactly_the_bound(gated, is_open, bound):
  adapter, layer = gated
  inputs = adapter.inputs()
  with adapter.all_gates(layer, is_open):
    _, record = adapter.run(layer, inputs)
  np.testing.assert_array_equal(
      record.executed, [float(getattr(record, bound))] * adapter.batch(inputs))


@pytest.mark.parametrize('training', [False, True])
def test_the_record_is_what_the_layer_promised(network, training):
  adapter, layer = network
  inputs = adapter.inputs()
  with _kept_weights(layer), routing.RoutingTape() as tape:
    adapter.call(layer, inputs, training)
  routed.check_complete(tape, layer)
  record = tape.routing()
  assert sorted(record.gates) == sorted(f'{layer.name}/{name}' for name in layer.gate_names)
  assert {f'{layer.name}/{name}' for name in layer.metric_names} <= set(record.metrics)
  assert set(layer.metric_limits) <= set(layer.metric_names)
  assert (record.soft_cost is not None) == layer.has_soft_cost
  costs = spies.costs_of(record)
  assert {x.dtype for x in (*costs, *record.gates.values())} == {tf.float32}
  assert record.executed.shape == record.expected.shape == (adapter.batch(inputs),)
  for gate in record.gates.values():
    assert np.all((gate >= 0) & (gate <= 1))
    assert not adapter.has_hard_gates or set(np.unique(gate)) <= {0.0, 1.0}


def test_the_budget_is_the_distance_of_the_share_that_gates_can_save(gated):
  adapter, layer = gated
  _, record = adapter.run(layer, adapter.inputs())
  span = float(record.maximum) - float(record.minimum)
  share = (np.asarray(record.expected, np.float64) - float(record.minimum)) / span
  np.testing.assert_allclose(
      budgets.budget_loss(record, 0.3), np.mean((share - 0.3)**2), 1e-4)


@pytest.mark.slow
def test_the_exported_network_skips_too(network, tmp_path):
  """One trace for any batch; the reloaded graph does not read weights that nobody needs."""
  adapter, layer = network
  inputs = adapter.inputs()
  signature = adapter.signature()

  @tf.function(autograph=False, input_signature=tf.nest.flatten(signature))
  def serve(*flat):
    with routing.RoutingTape() as tape:
      outputs = adapter.call(layer, tf.nest.pack_sequence_as(signature, flat))
    return {**outputs, 'executed': tape.routing().executed}

  healthy, record = adapter.run(layer, inputs)
  graph = serve.get_concrete_function().graph
  if adapter.convolutions_outside is not None:
    outside = [op for op, inside in spies.conditional_operations(graph) if not inside]
    assert len(outside) == adapter.convolutions_outside
  row = adapter.poisoned_rows()[0] if adapter.convolutions_outside is not None else None
  with _kept_weights(layer):
    if row is not None:
      assert adapter.poison(layer, inputs, row)
    module = tf.Module()
    module.layer, module.serve = layer, serve
    tf.saved_model.save(module, str(tmp_path))
  reloaded = tf.saved_model.load(str(tmp_path))
  rows = range(adapter.batch(inputs)) if row is None else [row]
  for batch in ([*range(adapter.batch(inputs))], [rows[0]]):
    flat = [tf.constant(x) for x in tf.nest.flatten(adapter.take(inputs, batch))]
    answer = {name: x.numpy() for name, x in reloaded.serve(*flat).items()}
    for position, image in enumerate(batch):
      if image in rows:
        assert answer['executed'][position] == record.executed[image]
        _same({level: answer[level][position] for level in healthy},
              {level: x[image] for level, x in healthy.items()})
