"""Decisions of a whole layer against the rules for one image and one node."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.backbones.caddet import decisions
from official_ext.modeling.backbones.caddet import wiring

LAYERS = {layer: [node for node in wiring.wire(4, 3) if node.layer == layer]
          for layer in range(5)}
BATCH = 16


def _logits(nodes, batch, seed):
  """Returns random logits, half of which shut their gate."""
  rng = np.random.default_rng([seed, 1])
  logits = []
  for node in nodes:
    values = rng.uniform(0.1, 3, [batch, len(node.paths)])
    values *= rng.choice([1, 1, -1, 1e-5], values.shape)
    logits.append(values.astype(np.float32))
  return logits


def _decide(layer, hard=False, batch=BATCH, seed=0, threshold=None):
  """Returns the nodes of a layer, which images are present, gates by hand, and the decisions."""
  nodes = LAYERS[layer]
  present = np.random.default_rng(seed).uniform(size=[batch, len(nodes)]) < 0.7
  logits = _logits(nodes, batch, seed)
  values = wiring.by_path(nodes, [tf.constant(x) for x in logits])
  decided = decisions.decide(nodes, values, tf.constant(present), hard, threshold)
  # Gates of images that are not present are shut, whatever their logits.
  expected = [np.where((np.tanh(x) >= 1e-4) & (np.tanh(x) > (threshold or 0)) & here[:, None],
                       np.tanh(x), 0) for x, here in zip(logits, present.T)]
  for column, node in enumerate(nodes):
    own = [wiring.PATHS.index(path) for path in node.paths]
    np.testing.assert_allclose(decided.gates.numpy()[:, column, own], expected[column], 1e-6)
    for values in (decided.gates, decided.leaving):
      assert not np.any(np.delete(values[:, column], own, axis=1))
  return nodes, present, expected, decided


@pytest.mark.parametrize('layer', LAYERS)
@pytest.mark.parametrize('hard, threshold', [(False, None), (True, None), (False, 0.9)])
def test_decisions_image_by_image(layer, hard, threshold):
  nodes, present, gates, decided = _decide(layer, hard, seed=layer, threshold=threshold)
  expected = np.zeros(decided.next_present.shape, bool)
  dropped = 0
  for column, node in enumerate(nodes):
    for image in range(BATCH):
      own = dict(zip(node.paths, gates[column][image]))
      runs = any(gate > 0 for gate in own.values())
      assert decided.running[image, column] == runs
      is_dropped = present[image, column] and not runs
      dropped += is_dropped
      for path, gate in own.items():
        passes = path == 'keep' and is_dropped
        place = image, column, wiring.PATHS.index(path)
        assert decided.leaving[place] == (gate > 0 or passes)
        weight = 1 if passes else float(gate > 0) if hard else gate
        np.testing.assert_allclose(decided.weights[place], weight, 1e-6)
        expected[image, node.scale + wiring.SCALE_CHANGES[path]] |= gate > 0 or passes
  np.testing.assert_array_equal(decided.present, present)
  np.testing.assert_array_equal(decided.next_present, expected)
  assert dropped


def test_a_threshold_of_1_shuts_every_gate():
  _, present, _, decided = _decide(2, threshold=1.0)
  assert not np.any(decided.running) and np.any(present)


def test_an_empty_batch_decides_nothing():
  nodes, _, _, decided = _decide(2, batch=0)
  assert decided.weights.shape == (0, len(nodes), len(wiring.PATHS))
  assert decided.next_present.shape == (0, len(nodes))


def test_every_image_is_at_the_entry_node():
  np.testing.assert_array_equal(decisions.enter(tf.constant(3)), np.ones([3, 1], bool))


def test_weights_differentiate_to_their_gates_alone():
  nodes = LAYERS[1]
  logits = [tf.constant([[0.2, 0.0]]), tf.constant([[0.0, 0.3, 0.4]])]
  with tf.GradientTape() as tape:
    tape.watch(logits)
    weights = decisions.decide(
        nodes, wiring.by_path(nodes, logits), tf.constant([[True, True]]), False).weights
    keep, down = (wiring.PATHS.index(path) for path in ('keep', 'down'))
    total = tf.reduce_sum(2 * weights[:, 1, keep] + 3 * weights[:, 1, down])
  first, second = tape.gradient(total, logits)
  np.testing.assert_array_equal(first, [[0, 0]])
  # The derivative of tanh is 1 - tanh^2; a gate that is shut has none.
  slopes = 1 - np.tanh([0.3, 0.4])**2
  np.testing.assert_allclose(second, [[0, 2 * slopes[0], 3 * slopes[1]]], 1e-6)
