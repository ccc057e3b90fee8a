"""CADDet's skipping equals masking, image by image, and its cost is what really runs."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.backbones.caddet import wiring
from official_ext.ops import routing
import caddet_reference
import spies
from supernets import gates_of, images, make, run, same, set_gates
from supernets import CHANNELS, ODD, SIZE


@pytest.mark.parametrize('seed', [0, 1])
def test_skipping_equals_masking(seed):
  layer = make(seed)
  inputs = images(ODD, seed=seed)
  skipped, record = run(layer, inputs)
  layer.inference = 'mask'
  masked, masked_record = run(layer, inputs)
  same(skipped, masked, 2e-5)
  np.testing.assert_array_equal(record.executed, masked_record.executed)
  for name, gate in record.gates.items():
    np.testing.assert_allclose(gate, masked_record.gates[name], 1e-4, 1e-5)


def test_an_image_does_not_depend_on_its_batch():
  layer, inputs = make(), images()
  together, record = run(layer, inputs)
  for row in range(len(inputs)):
    alone, alone_record = run(layer, inputs[row:row + 1])
    same(alone, {level: x[row:row + 1] for level, x in together.items()}, 2e-5)
    assert alone_record.executed[0] == record.executed[row]
  order = np.array([4, 0, 5, 2, 1, 3])
  same(run(layer, inputs[order])[0], {level: x[order] for level, x in together.items()}, 2e-5)


def _needed(record, row):
  """Returns the names of the parts that an image runs, from its gates alone."""
  gates, parts, present = gates_of(record), set(), {(0, 0)}
  for name in gates:
    layer, scale, path = name.split('/')
    layer, scale = int(layer[6:]), int(scale[6:])
    node = f'layer_{layer:02}_scale_{scale}'
    if (layer, scale) not in present:
      continue
    own = [other for other in gates if other.startswith(name[:name.rindex('/') + 1])]
    runs = any(gates[other][row] > 0 for other in own)
    parts.add(f'{node}/router')
    if gates[name][row] > 0 or (path == 'keep' and not runs):
      present.add((layer + 1, scale + caddet_reference.SCALE_CHANGES[path]))
    if gates[name][row] > 0:
      parts |= {f'{node}/separable_1', f'{node}/separable_2', f'{node}/{path}'}
  return parts


def _poison(layer, parts):
  """Writes NaN into all weights of nodes except those of `parts`; returns how many variables."""
  poisoned = 0
  for variable in layer.variables:
    if '/layer_' in variable.name and '/'.join(variable.name.split('/')[1:3]) not in parts:
      variable.assign(np.full(variable.shape, np.nan))
      poisoned += 1
  return poisoned


@pytest.mark.parametrize('row', [0, 3])
def test_poisoned_weights_of_what_an_image_does_not_need_change_nothing(row):
  layer, inputs = make(), images()
  healthy, record = run(layer, inputs)
  assert _poison(layer, _needed(record, row))
  poisoned, again = run(layer, inputs)
  for level, x in healthy.items():
    np.testing.assert_allclose(poisoned[level][row], x[row], 1e-5, 1e-5)
  assert again.executed[row] == record.executed[row]
  # Other images need the poisoned parts, so the poison works.
  assert not all(np.all(np.isfinite(x)) for x in poisoned.values())
  alone, _ = run(layer, inputs[row:row + 1])
  same(alone, {level: x[row:row + 1] for level, x in healthy.items()})


@pytest.mark.parametrize('bias, bound', [(None, None), (5.0, 'maximum'), (-5.0, 'minimum')])
def test_executed_is_what_the_operations_received(bias, bound, size=ODD):
  layer, inputs = make(), images(size)
  if bias is not None:
    set_gates(layer, bias)
  with spies.OperationSpy() as spy:
    _, record = run(layer, inputs)
  total = len(inputs) * layer.costs(*size).stem + np.sum(record.executed)
  assert spy.multiply_adds == total
  if bound:
    np.testing.assert_array_equal(record.executed, getattr(record, bound))
  assert np.all((record.executed >= record.minimum) & (record.executed <= record.maximum))
  layer.inference = 'mask'
  with spies.OperationSpy() as spy:
    run(layer, inputs)
  assert spy.multiply_adds == len(inputs) * layer.costs(*size).total
  assert record.maximum == layer.costs(*size).total - layer.costs(*size).stem


def test_soft_costs_by_hand():
  """Computes C_net (section 3.2) from the recorded gates; its gradient goes to the largest gate."""
  layer, inputs = make(), images(ODD)
  _, record = run(layer, inputs, training=True)
  pixels = {0: 10 * 13, 1: 5 * 7, 2: 3 * 4}
  cell = {scale: 2 * (9 * c + c * c) * pixels[scale] for scale, c in enumerate(CHANNELS)}
  free = {'up': {s: CHANNELS[s] * CHANNELS[s - 1] * pixels[s] for s in (1, 2)},
          'down': {s: CHANNELS[s] * CHANNELS[s + 1] * pixels[s + 1] for s in (0, 1)}}
  expected, largest = np.zeros(len(inputs)), {}
  for name, gate in gates_of(record).items():
    node, path = name.rsplit('/', 1)
    scale = int(node[-1])
    largest[node] = np.maximum(largest.get(node, 0), gate)
    expected += gate * free[path][scale] if path != 'keep' else 0
  expected += sum(gate * cell[int(node[-1])] for node, gate in largest.items())
  np.testing.assert_allclose(record.soft_cost, expected, 1e-5)
  routers = record.executed - _hard_cost(gates_of(record), cell, free)
  np.testing.assert_allclose(record.expected, expected + routers, 1e-5)

  model = wiring.CostModel(wiring.wire(4, 3), CHANNELS)
  gates = [tf.Variable(np.linspace(0.2, 0.8, len(spec.paths))[None], dtype=tf.float32)
           for spec in wiring.wire(4, 3)]
  with tf.GradientTape() as tape:
    cost = model.use(wiring.by_path(wiring.wire(4, 3), gates),
                     tf.ones([1, len(gates)], tf.bool), tf.zeros([1, 10, 13, 4]))
    total = tf.reduce_sum(cost.soft_cost)
  for spec, gradient in zip(wiring.wire(4, 3), tape.gradient(total, gates)):
    own = [0 if path == 'keep' else free[path][spec.scale] for path in spec.paths]
    own[-1] += cell[spec.scale]
    np.testing.assert_allclose(gradient[0], own, 1e-6)


def _hard_cost(gates, cell, free):
  total, running = 0, {}
  for name, gate in gates.items():
    node, path = name.rsplit('/', 1)
    running[node] = running.get(node, False) | (gate > 0)
    total = total + ((gate > 0) * free[path][int(node[-1])] if path != 'keep' else 0)
  return total + sum(runs * cell[int(node[-1])] for node, runs in running.items())


@pytest.mark.parametrize('batch, gathers', [(1, False), (None, True)])
def test_batches_of_one_are_traced_without_gathers(batch, gathers):
  layer, inputs = make(num_layers=2), images(batch=6)
  together, _ = run(layer, inputs)
  traced = tf.function(layer, autograph=False).get_concrete_function(
      tf.TensorSpec([batch, *SIZE, 3]))
  same({level: x.numpy() for level, x in traced(tf.constant(inputs[2:3])).items()},
       {level: x[2:3] for level, x in together.items()}, 2e-5)
  # This operation scatters the selected rows back.
  kinds = {node.op for function in traced.graph.as_graph_def().library.function
           for node in function.node_def}
  assert ('TensorScatterUpdate' in kinds) == gathers


@pytest.mark.slow
def test_the_exported_network_skips_too(tmp_path):
  """One trace serves any batch and size; weights that the first image does not need are NaN."""
  layer, inputs = make(), images()

  @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None, None, 3])])
  def serve(images):
    with routing.RoutingTape() as tape:
      outputs = layer(images)
    return {**outputs, 'executed': tape.routing().executed}

  healthy, record = run(layer, inputs)
  same({k: x for k, x in serve(images(ODD, 2)).items() if k != 'executed'},
       run(layer, images(ODD, 2))[0], 2e-5)
  outside = [op for op, inside in spies.conditional_operations(
      serve.get_concrete_function().graph) if not inside]
  assert len(outside) == 3  # These are the convolutions of the stem.
  _poison(layer, _needed(record, 0))
  module = tf.Module()
  module.layer, module.serve = layer, serve
  tf.saved_model.save(module, str(tmp_path))
  reloaded = tf.saved_model.load(str(tmp_path))
  for batch in (1, len(inputs)):
    answer = dict(reloaded.serve(inputs[:batch]))
    assert answer.pop('executed')[0] == record.executed[0]
    same({level: x[:1].numpy() for level, x in answer.items()},
         {level: x[:1] for level, x in healthy.items()}, 2e-5)
