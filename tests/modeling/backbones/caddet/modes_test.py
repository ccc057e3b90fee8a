"""The selections of one layer; the supernet's tests compare what the modes compute."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.backbones.caddet import decisions
from official_ext.modeling.backbones.caddet import modes
from official_ext.modeling.backbones.caddet import wiring

NODES = {spec: None for spec in wiring.wire(4, 3) if spec.layer == 2}


def _decided(batch):
  """Random decisions; the first node runs for every image, the second for none."""
  rng = np.random.default_rng(batch)
  present, running, next_present = rng.uniform(size=[3, batch, len(NODES)]) < 0.5
  running[:, 0], running[:, 1] = True, False
  leaving = rng.uniform(size=[batch, len(NODES), len(wiring.PATHS)]) < 0.5
  values = rng.uniform(size=leaving.shape).astype(np.float32)
  return decisions.LayerDecisions(*(tf.constant(x) for x in (
      present, values, running, leaving, values, next_present)))


@pytest.mark.parametrize('batch', [0, 1, 16])
def test_one_selection_per_node_path_and_next_node(batch):
  decided = _decided(batch)
  running, leaving, next_selected = modes._select(NODES, decided)
  assert list(running) == list(NODES) and len(leaving) == len(NODES) * len(wiring.PATHS)
  for column, spec in enumerate(NODES):
    np.testing.assert_array_equal(running[spec].images, decided.running[:, column])
    np.testing.assert_array_equal(
        next_selected[column].images, decided.next_present[:, column])
    for number, path in enumerate(wiring.PATHS):
      np.testing.assert_array_equal(
          leaving[spec, path].images, decided.leaving[:, column, number])
  for selection in (*running.values(), *leaving.values(), *next_selected):
    count = int(np.sum(selection.images))
    assert bool(selection.some) == (count > 0)
    assert bool(selection.every) == (0 < count == batch)


def test_weights_are_those_of_node_and_path():
  decided = _decided(4)
  state = modes.LayerState({0: tf.zeros([4, 2, 2, 3], tf.float64)})
  for (spec, path), weight in modes._weights(NODES, decided, state).items():
    assert (weight.shape, weight.dtype) == ((4, 1, 1, 1), tf.float64)
    np.testing.assert_array_equal(
        weight[:, 0, 0, 0],
        decided.weights[:, list(NODES).index(spec), wiring.PATHS.index(path)])


@pytest.mark.parametrize('batch', [1, 3])
def test_only_skip_makes_selections(batch):
  features = tf.zeros([batch, 4, 4, 2])
  assert [bool(x.every) for x in modes.Skip().enter(features).selected] == [True]
  assert modes.Mask(True).enter(features).selected == ()
  assert modes.AllPaths(True).enter(features).present is None
