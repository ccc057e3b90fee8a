"""CADDet's supernet against NumPy, its costs, and the checks that every layer has to pass."""
import json

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.backbones import caddet
from official_ext.modeling.backbones.caddet import wiring
from official_ext.ops import multiply_adds
from official_ext.modeling.layers import routed
from official_ext.ops import routing
import caddet_reference
from supernets import gates_of, images, make, run, same, set_gates
from supernets import ODD, SIZE


def dense(network, outputs):
  """Returns the reference's dictionaries as arrays, with zeros for images that are not present."""
  return {level: np.stack([maps.get(i, np.zeros(outputs[level].shape[1:]))
                           for i in range(len(outputs[level]))])
          for level, maps in zip(sorted(outputs), network)}


@pytest.mark.parametrize('size, inference, hard', [
    (ODD, 'skip', False), (ODD, 'mask', True), ((8, 9), 'skip', True)])
def test_inference_equals_numpy(size, inference, hard):
  """One batch has images that drop nodes, do not reach them, and take different paths."""
  layer = make(dtype='float64', inference=inference, hard_gates=hard)
  inputs = images(size)
  outputs, record = run(layer, inputs)
  network = caddet_reference.Supernet(layer)
  expected = network(inputs, gates_of(record))
  same(outputs, dense(expected, outputs), 1e-9)
  for name, gate in gates_of(record).items():
    np.testing.assert_allclose(gate, network.gates[name], 1e-5, 1e-6, err_msg=name)
  np.testing.assert_array_equal(record.executed, [network.cost[i] for i in range(len(inputs))])
  if size == ODD:
    assert network.dropped and network.absent
    assert any(0 < np.count_nonzero(gate) < len(inputs) for gate in network.gates.values())


@pytest.mark.parametrize('inference', ['skip', 'mask'])
def test_a_threshold_shuts_gates_at_inference_alone(inference):
  layer, inputs = make(inference=inference), images()
  _, own = run(layer, inputs)
  values = np.stack(list(gates_of(own).values()))
  threshold = np.median(values[values > 0])
  with routing.shutting_gates(threshold):
    _, record = run(layer, inputs)
  raised = np.stack(list(gates_of(record).values()))
  assert np.all((raised == 0) | (raised > threshold)) and np.any(raised > threshold)
  assert np.sum(record.executed) < np.sum(own.executed)
  with routing.shutting_gates(1.0):
    _, shut = run(layer, inputs)
    _, training = run(layer, inputs, training=True)
  assert any(np.any(gate) for gate in gates_of(training).values())
  assert not any(np.any(gate) for gate in gates_of(shut).values())
  assert np.all(shut.executed < own.executed)


@pytest.mark.parametrize('seed', [0, 1])
def test_training_equals_numpy_and_counts_the_images_that_would_run(seed):
  """Compares outputs and the statistics of every norm with a reference that masks nothing."""
  layer = make(seed, dtype='float64')
  inputs = images(ODD)
  before = {v.name.split('/', 1)[1][:-2]: v.numpy() for v in layer.variables}
  network = caddet_reference.Supernet(layer, training=True)
  outputs, record = run(layer, inputs, training=True)
  same(outputs, dense(network(inputs, gates_of(record)), outputs), 1e-9)
  np.testing.assert_array_equal(record.executed, [network.cost[i] for i in range(len(inputs))])
  after = {v.name.split('/', 1)[1][:-2]: v.numpy() for v in layer.variables}
  untouched = 0
  for name, statistics in network.statistics.items():
    for part, now in zip(('moving_mean', 'moving_variance'), statistics):
      old = before[f'{name}/{part}']
      np.testing.assert_allclose(after[f'{name}/{part}'], 0.9 * old + 0.1 * now, 1e-9, 1e-12)
      untouched += np.array_equal(old, now)
  assert untouched or seed  # With seed 0 no image needs one of the norms.


def test_all_statistics_are_those_of_plain_batch_norm():
  layer = make(bn_statistics='all')
  inputs, name = images(), 'part/layer_04_scale_2/separable_1/norm'
  run(layer, inputs, training=True)
  all_images = {v.name: v.numpy() for v in layer.variables if v.name.startswith(name)}
  layer = make(bn_statistics='present')
  run(layer, inputs, training=True)
  present = {v.name: v.numpy() for v in layer.variables if v.name.startswith(name)}
  different = [key for key in present if not np.allclose(all_images[key], present[key])]
  assert sorted(different) == [f'{name}/moving_mean:0', f'{name}/moving_variance:0']


def test_the_papers_costs():
  layer = caddet.CADDet()
  assert len(layer.gate_names) == 149
  assert len(wiring.wire(16, 4)) == 62
  costs = layer.costs(640, 800)
  parts = np.array([*costs, costs.total]) / 1e6
  np.testing.assert_allclose(parts, [214.91, 4381.67, 1443.10, 9.986, 6049.67], atol=0.005)
  costs = layer.costs(800, 1200)
  parts = np.array([*costs, costs.total]) / 1e6
  np.testing.assert_allclose(parts, [402.96, 8265.34, 2729.20, 9.986, 11407.48], atol=0.005)


@pytest.mark.slow
def test_the_full_networks_weights_and_dense_graph():
  layer, size = caddet.CADDet(), (640, 800)
  with tf.Graph().as_default() as graph:
    layer(tf.zeros([1, *size, 3]), training=True)
  count = {True: 0, False: 0}
  for variable in layer.trainable_variables:
    count['stem_' in variable.name] += variable.shape.num_elements()
  assert count == {True: 9_947, False: 17_585_397}
  assert multiply_adds.count_graph(graph) == layer.costs(*size).total


def test_costs_equal_the_dense_graph(size=ODD):
  layer = make()
  graph = tf.function(lambda x: layer(x, training=True), autograph=False).get_concrete_function(
      tf.TensorSpec([1, *size, 3])).graph
  assert multiply_adds.count_graph(graph) == layer.costs(*size).total


def test_wiring():
  """Checks the paper's supernet and the same rule with fewer layers or scales."""
  nodes = {}
  for layer, scale, paths in wiring.wire(16, 4):
    nodes.setdefault(layer, []).append(len(paths))
    assert scale == len(nodes[layer]) - 1
  assert nodes == {0: [2], 1: [2, 3], 2: [2, 3, 3], **{k: [2, 3, 3, 2] for k in range(3, 16)},
                   16: [1, 1, 1, 1]}
  assert [spec.paths for spec in wiring.wire(1, 2)] == [('keep', 'down'), ('keep',), ('keep',)]
  assert [spec.paths for spec in wiring.wire(2, 1)] == [('keep',)] * 3
  with pytest.raises(ValueError, match='num_layers is 2'):
    wiring.wire(2, 4)


def test_without_routers_every_path_is_open():
  inputs = images(batch=2)
  gated, plain = make(hard_gates=True), make(routers=False)
  set_gates(gated, 5.0)
  weights = {v.name: v for v in gated.variables}
  assert len(plain.variables) < len(gated.variables)
  for variable in plain.variables:
    assert 'router' not in variable.name
    variable.assign(weights[variable.name])
  same(run(gated, inputs)[0], {level: x.numpy() for level, x in plain(inputs).items()})
  with routing.RoutingTape() as tape:
    plain(inputs)
  routed.check_complete(tape, plain)
  assert tape.routing() is None


def test_a_training_step_reaches_every_weight_that_took_part():
  layer, inputs = make(), images(batch=8)
  set_gates(layer, 0.5)
  with tf.GradientTape() as tape, routing.RoutingTape() as routes:
    outputs = layer(inputs, training=True)
    loss = tf.add_n([tf.reduce_mean(x * np.random.default_rng(0).normal(size=x.shape))
                     for x in outputs.values()])
    loss += tf.reduce_mean(routes.routing().expected / routes.routing().maximum)
  gradients = tape.gradient(loss, layer.trainable_variables)
  for variable, gradient in zip(layer.trainable_variables, gradients):
    assert np.all(np.isfinite(gradient)), variable.name
    # The kernel of the output is 0, so the hidden layer gets no gradient.
    assert np.any(gradient != 0) or '/router/' in variable.name, variable.name
    if '/router/output' in variable.name:
      assert np.any(gradient != 0), variable.name


@pytest.mark.parametrize('policy, output, tolerance', [
    ('mixed_float16', tf.float16, 0.05), ('mixed_bfloat16', tf.bfloat16, 0.3)])
def test_precision(policy, output, tolerance):
  low, full = make(dtype=policy), make()
  for layer in (low, full):
    set_gates(layer, 0.7)
  expected, _ = run(full, images())
  for training in (False, True):
    with routing.RoutingTape() as tape:
      outputs = low(images(), training=training)
    assert {x.dtype for x in outputs.values()} == {output}
    assert {x.dtype for x in tape.routing().gates.values()} == {tf.float32}
    assert {x.dtype for x in tape.routing()[1:6]} == {tf.float32}
    assert all(np.all(np.isfinite(tf.cast(x, tf.float32))) for x in outputs.values())
    if not training:
      for level, x in outputs.items():
        scale = np.abs(expected[level]).max()
        np.testing.assert_allclose(tf.cast(x, tf.float32) / scale, expected[level] / scale,
                                   atol=tolerance)
  assert {v.dtype for v in low.trainable_variables} == {tf.float32}


def test_config_specs_and_wrong_options():
  layer = make(kernel_regularizer={'class_name': 'L2', 'config': {'l2': 0.01}}, size=ODD)
  config = layer.get_config()
  assert json.loads(json.dumps(config)) == config
  again = caddet.CADDet.from_config(config)
  assert again.get_config() == config
  again(images(ODD, 1))
  again.set_weights(layer.get_weights())
  same(run(again, images(ODD))[0], run(layer, images(ODD))[0])
  for level, x in layer(images(ODD)).items():
    assert layer.output_specs[level].as_list() == [None, *x.shape[1:]]
  kernels = [v for v in layer.trainable_variables if 'kernel' in v.name]
  np.testing.assert_allclose(
      tf.add_n(layer.losses), 0.01 * sum(np.sum(v.numpy()**2) for v in kernels), 1e-5)
  for option, value in (('inference', 'fast'), ('bn_statistics', 'some'), ('channels', []),
                        ('router_norm', 'layer'), ('num_layers', 1)):
    with pytest.raises(ValueError, match=option):
      caddet.CADDet(**{option: value})


def test_group_norm_in_routers_and_frozen_networks():
  layer, inputs = make(router_norm='group'), images()
  frozen = make()
  frozen.trainable = False
  before = frozen.get_weights()
  same(run(frozen, inputs, training=True)[0], run(frozen, inputs)[0], 2e-5)
  assert all(np.array_equal(old, new) for old, new in zip(before, frozen.get_weights()))
  averages = [[v for v in part.variables if '/router/' in v.name and 'moving' in v.name]
              for part in (layer, frozen)]
  assert averages[1] and not averages[0]
  together, _ = run(layer, inputs)
  alone, _ = run(layer, inputs[2:3])
  # Group norm amplifies rounding errors of images that are nearly uniform.
  same(alone, {level: x[2:3] for level, x in together.items()}, 1e-3)


@pytest.mark.slow
def test_keras_saves_and_loads_it(tmp_path):
  layer, inputs = make(), images()
  model_input = tf_keras.Input([*SIZE, 3])
  model = tf_keras.Model(model_input, layer(model_input))
  model.save(tmp_path / 'model.keras')
  loaded = tf_keras.models.load_model(tmp_path / 'model.keras')
  same({k: x.numpy() for k, x in loaded(inputs).items()}, run(layer, inputs)[0], 2e-5)
