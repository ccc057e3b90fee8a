"""DyFPN's cost: against NumPy, at the paper's size, and at any size; and what gates teach."""
import contextlib

import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.decoders import dyfpn
from official_ext.modeling.decoders.dyfpn import gumbel_selection
from official_ext.ops import routing
import routed_adapters
import spies

CHANNELS = routed_adapters.DyFPNAdapter.CHANNELS
# The number of taps of each branch: 1x1, three of 3x3, three of 5x5.
TAPS = np.array([1, 9, 9, 9, 25, 25, 25])


def _branch_cost(pattern, features):
  """Multiply-adds of the branches that one image runs."""
  total = 0
  for gate, (level, depth) in zip(pattern, CHANNELS.items()):
    each = np.prod(features[level].shape[1:3]) * depth * 4
    total += each * np.sum(gate * TAPS if len(gate) == 7 else gate[1] * TAPS)
  return total


def _gate_cost(kind, paths):
  if kind == 'random':
    return 0
  if kind == 'channel':
    return sum(c * (c // 4) + (c // 4) * paths for c in CHANNELS.values())
  return sum(16 * c for c in CHANNELS.values()) + 3 * (2 * 3 * 16 * 16 + 16 * paths)


@pytest.mark.parametrize('size', [(32, 40), (75, 101)])
@pytest.mark.parametrize('block, kind', [
    ('A', 'channel'), ('A', 'recurrent'), ('B', 'recurrent'), ('B', 'random'), ('B', 'channel')])
def test_cost_equals_numpy(block, kind, size):
  adapter = routed_adapters.DyFPNAdapter(block, kind)
  inputs = adapter.inputs(size)
  _, record = adapter.run(adapter.make(), inputs)
  features, patterns = inputs
  gate_cost = _gate_cost(kind, patterns.shape[-1])
  costs = np.array([_branch_cost(pattern, features) for pattern in patterns])
  everything = _branch_cost(np.ones_like(patterns[0]), features)
  np.testing.assert_allclose(record.executed, gate_cost + costs, 1e-6)
  np.testing.assert_allclose(
      record.expected, gate_cost + spies.SOFT[0] * costs + spies.SOFT[1] * everything, 1e-6)
  np.testing.assert_array_equal(record.executed[-1], record.maximum)
  np.testing.assert_array_equal(record.executed[0], record.minimum)


@pytest.mark.parametrize('block', ['A', 'B'])
def test_a_branch_moves_once_an_image_selects_it(block):
  adapter = routed_adapters.DyFPNAdapter(block)
  layer, inputs = adapter.make(), adapter.inputs()
  moved = set()
  for row, pattern in enumerate(inputs[1]):
    with tf.GradientTape() as tape:
      outputs, _ = adapter.run_tensors(layer, adapter.take(inputs, [row]), training=True)
      loss = tf.add_n([tf.reduce_sum(tf.square(x)) for x in outputs.values()])
    gradients = zip(layer.trainable_variables, tape.gradient(loss, layer.trainable_variables))
    now = {v.name for v, gradient in gradients if gradient is not None and np.any(gradient != 0)}
    for index, level in enumerate(CHANNELS):
      branches = [name for name in now if f'/lateral_{level}/' in name]
      selected = 7 * pattern[index, 1] if block == 'B' else 1
      assert len(branches) == 2 * selected, (level, pattern[index])  # kernels and biases
    moved |= now
  assert moved == {v.name for v in layer.trainable_variables}


RESNET = {'2': 256, '3': 512, '4': 1024, '5': 2048}


def _paper_size(cls, forced=None, **options):
  """Builds a network of the paper's size in a graph, where it takes no memory.

  Args:
    cls: the decoder.
    forced: hard gates `[1, levels, paths]`, or None.
    **options: of the decoder.

  Returns:
    The decoder, and executed, minimum and maximum multiply-adds without those of the gate.
  """
  with tf.Graph().as_default() as graph:
    inputs = {level: tf.zeros([1, 800 // 2**int(level), 1216 // 2**int(level), depth])
              for level, depth in RESNET.items()}
    layer = cls(input_specs={level: x.shape for level, x in inputs.items()}, min_level=2,
                max_level=6, norm='none', coarse_levels='max_pool', **options)
    force = contextlib.nullcontext() if forced is None else spies.forced_gates(forced)
    with force, routing.RoutingTape() as tape:
      layer(inputs)
    if forced is None:
      return layer, None
    record = tape.routing()
    with tf.compat.v1.Session(graph=graph) as session:
      costs = session.run([record.executed[0], record.minimum, record.maximum])
  return layer, np.array(costs, np.float64) - layer.gate.multiply_adds()


@pytest.mark.parametrize('cls, options, weights', [
    (dyfpn.InceptionFPN, {'branches': ['1x1']}, 3_344_384),
    (dyfpn.InceptionFPN, {}, 103_620_608),
    (dyfpn.DyFPN, {'block': 'A', 'gate': {'type': 'channel'}}, 105_020_956),
    (dyfpn.DyFPN, {'block': 'A', 'gate': {'type': 'recurrent'}}, 103_683_863),
    (dyfpn.DyFPN, {'block': 'B', 'gate': {'type': 'channel'}}, 106_000_200),
    (dyfpn.DyFPN, {'block': 'B', 'gate': {'type': 'recurrent'}}, 104_667_842),
])
def test_number_of_weights_with_resnet50(cls, options, weights):
  layer, _ = _paper_size(cls, **options)
  assert sum(v.shape.num_elements() for v in layer.trainable_variables) == weights


@pytest.mark.parametrize('level, gmac', [(0, 410.41), (1, 205.21), (2, 102.60), (3, 51.30)])
def test_cost_of_block_b_at_the_papers_size(level, gmac):
  gate = np.eye(2)[(np.arange(4) == level).astype(int)]
  _, (executed, minimum, maximum) = _paper_size(dyfpn.DyFPN, gate[None], block='B')
  np.testing.assert_allclose(executed / 1e9, gmac, atol=0.006)
  np.testing.assert_allclose(minimum, 0, atol=1)
  np.testing.assert_allclose(maximum / 1e9, 410.41 + 205.21 + 102.60 + 51.30, atol=0.02)


def test_cost_of_block_a_at_the_papers_size():
  gate = np.eye(7)[[4, 1, 0, 6]]
  _, (executed, minimum, maximum) = _paper_size(dyfpn.DyFPN, gate[None], block='A')
  np.testing.assert_allclose(maximum / 1e9, 186.78, atol=0.006)
  np.testing.assert_allclose(minimum / 1e9, 7.47, atol=0.006)
  one = 200 * 304 * 256 * 256  # one tap at level 2; each next level costs half as much
  np.testing.assert_allclose(executed, one * (25 + 9 / 2 + 1 / 4 + 25 / 8), 1e-6)


@pytest.mark.parametrize('in_graph', [False, True])
@pytest.mark.parametrize('block, path', [('A', 6), ('B', 1)])
def test_all_open_costs_exactly_the_maximum_at_any_size(block, path, in_graph):
  """Only the costs are computed, from the shapes of up to 1000 random sizes."""
  layer = routed_adapters.DyFPNAdapter(block).make()
  gate = tf.constant(np.eye(7 if block == 'A' else 2)[[[path] * 3]], tf.float32)
  signature = [{level: tf.TensorSpec([1, None, None, depth]) for level, depth in CHANNELS.items()}]

  def costs(inputs):
    with routing.RoutingTape() as tape:
      layer._record(inputs, gumbel_selection.Choice(gate, gate, gate))
    return tape.routing().executed[0], tape.routing().maximum

  run = tf.function(costs, autograph=False, input_signature=signature) if in_graph else costs
  rng = np.random.default_rng(0)
  for size in rng.integers(8, 2000, [1000 if in_graph else 50, 2]):
    executed, maximum = run({
        level: tf.zeros([1, *(size // 2**int(level)), depth]) for level, depth in CHANNELS.items()})
    assert float(executed) == float(maximum)
