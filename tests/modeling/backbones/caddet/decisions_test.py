"""Decisions of a whole layer against rules that look at one image and one node at a time."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.backbones.caddet import decisions
from official_ext.modeling.backbones.caddet import wiring

LAYERS = {layer: [node for node in wiring.wire(4, 3) if node.layer == layer]
          for layer in range(5)}
BATCH = 16


def _logits(nodes, batch, seed):
  """Random logits, half of them of shut gates."""
  rng = np.random.default_rng([seed, 1])
  logits = []
  for node in nodes:
    values = rng.uniform(0.1, 3, [batch, len(node.paths)])
    values *= rng.choice([1, 1, -1, 1e-5], values.shape)
    logits.append(values.astype(np.float32))
  return logits


def _decide(layer, hard=False, skip=True, batch=BATCH, seed=0):
  nodes = LAYERS[layer]
  arrived = np.random.default_rng(seed).uniform(size=[batch, len(nodes)]) < 0.7
  logits = _logits(nodes, batch, seed)
  gates, decided, arrivals = decisions.decide(
      nodes, [tf.constant(x) for x in logits], tf.constant(arrived), hard, skip)
  # Shut for images that are not there, whatever their logits.
  expected = [np.where((np.tanh(x) >= 1e-4) & here[:, None], np.tanh(x), 0)
              for x, here in zip(logits, arrived.T)]
  for column, node in enumerate(nodes):
    own = [wiring.PATHS.index(path) for path in node.paths]
    np.testing.assert_allclose(gates.numpy()[:, column, own], expected[column], 1e-6)
    assert not np.any(np.delete(gates[:, column], own, axis=1))
  return nodes, arrived, expected, decided, arrivals


@pytest.mark.parametrize('layer', LAYERS)
@pytest.mark.parametrize('hard', [False, True])
def test_decisions_image_by_image(layer, hard):
  nodes, arrived, gates, decided, arrivals = _decide(layer, hard, seed=layer)
  expected = np.zeros(arrivals.images.shape, bool)
  dropped = 0
  for column, node in enumerate(nodes):
    decision = decided[node.scale]
    for image in range(BATCH):
      own = dict(zip(node.paths, gates[column][image]))
      runs = any(gate > 0 for gate in own.values())
      assert decision.runs.images[image] == runs
      is_dropped = arrived[image, column] and not runs
      dropped += is_dropped
      for path, gate in own.items():
        passes = path == 'keep' and is_dropped
        assert decision.opened[path].images[image] == (gate > 0 or passes)
        weight = 1 if passes else float(gate > 0) if hard else gate
        np.testing.assert_allclose(decision.weights[path][image, 0, 0, 0], weight, 1e-6)
        expected[image, node.scale + wiring.STEPS[path]] |= gate > 0 or passes
  np.testing.assert_array_equal(arrivals.images, expected)
  np.testing.assert_array_equal(np.stack([x.images for x in arrivals.present], 1), expected)
  assert dropped


@pytest.mark.parametrize('batch', [0, 1, BATCH])
def test_cases_count_the_images(batch):
  nodes, _, _, decisions, arrivals = _decide(2, batch=batch)
  selections = [*arrivals.present]
  for node in nodes:
    selections += [decisions[node.scale].runs, *decisions[node.scale].opened.values()]
  for selection in selections:
    count = int(np.sum(selection.images))
    assert int(selection.case) == (0 if not count else 2 if count == batch else 1)
  _, _, _, decisions, arrivals = _decide(2, skip=False, batch=batch)
  assert {x.case for x in arrivals.present} == {decisions[1].runs.case} == {None}


def test_every_image_enters():
  arrivals = decisions.entrance(tf.constant(3), True)
  np.testing.assert_array_equal(arrivals.images, np.ones([3, 1], bool))
  assert [int(x.case) for x in arrivals.present] == [2]


def test_weights_differentiate_to_their_gates_alone():
  nodes = LAYERS[1]
  logits = [tf.constant([[0.2, 0.0]]), tf.constant([[0.0, 0.3, 0.4]])]
  with tf.GradientTape() as tape:
    tape.watch(logits)
    weights = decisions.decide(
        nodes, logits, tf.constant([[True, True]]), False, False).nodes[1].weights
    total = tf.reduce_sum(2 * weights['keep'] + 3 * weights['down'])
  first, second = tape.gradient(total, logits)
  np.testing.assert_array_equal(first, [[0, 0]])
  # The derivative of tanh is 1 - tanh^2; a gate that is shut has none.
  slopes = 1 - np.tanh([0.3, 0.4])**2
  np.testing.assert_allclose(second, [[0, 2 * slopes[0], 3 * slopes[1]]], 1e-6)
