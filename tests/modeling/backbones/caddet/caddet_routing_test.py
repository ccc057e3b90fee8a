"""CADDet's soft cost by hand, its bounds, and how single images are traced."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.backbones.caddet import wiring
from supernets import gates_of, images, make, run, same
from supernets import CHANNELS, ODD, SIZE


@pytest.mark.parametrize('size', [SIZE, ODD])
def test_the_largest_cost_is_that_of_the_whole_network_without_its_stem(size):
  layer = make()
  _, record = run(layer, images(size))
  costs = layer.costs(*size)
  assert record.maximum == costs.total - costs.stem


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
