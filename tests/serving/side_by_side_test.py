"""Networks side by side: what is measured, which are best, and what is said of them."""
import types

import numpy as np
import pytest

from official_ext.serving import side_by_side
from official_ext.utils import timing


def network(name, ap, ms, decides=0, gates=0):
  return side_by_side.Network(name, ap, ap, 1.0, 1.0, 1.0, ms, ms, ms, decides, gates)


class Detector:
  """Says which image it gets."""

  def __init__(self, name, log):
    self._name, self._log = name, log

  def seconds(self, images):
    image, = images
    self._log.append((self._name, image.shape[0]))
    return 0.0


def test_costs_times_and_gates_are_of_each_network(monkeypatch):
  log = []

  def interleaved(functions, repeats, label):
    assert repeats == 3 and label
    for function in functions.values():
      function()
    # Seconds: 1, 2, 3 times the height of the image, ten times for the second network.
    return {key: np.array([3, 1, 2]) * 1e-3 * (10 if key[0] == 'second' else 1) * (key[1] + 1)
            for key in functions}

  monkeypatch.setattr(timing, 'interleaved', interleaved)
  predicted = {
      'first': types.SimpleNamespace(
          costs=[{'multiply_adds': cost} for cost in (1e9, 2e9, 6e9)],
          gates=lambda: {'a': np.array([0, 1, 0]), 'b': np.array([1, 1, 1])},
          evaluation={'ap': 0.5, 'ap50': 0.75}),
      'second': types.SimpleNamespace(
          costs=[{'multiply_adds': 4e9}], gates=lambda: {}, evaluation={'ap': -1.0, 'ap50': -1.0})}
  images = [np.zeros([1, 1, 3], np.uint8), np.zeros([2, 1, 3], np.uint8)]
  detectors = {name: Detector(name, log) for name in predicted}
  found = side_by_side.measure(detectors, predicted, images, 3)
  assert sorted(log) == [('first', 1), ('first', 2), ('second', 1), ('second', 2)]
  assert found[0] == side_by_side.Network(
      'first', 0.5, 0.75, 3.0, 1.0, 6.0, pytest.approx(3.0), pytest.approx(2.0),
      pytest.approx(4.0), 1, 2)
  assert found[1] == side_by_side.Network(
      'second', None, None, 4.0, 4.0, 4.0, pytest.approx(30.0), pytest.approx(20.0),
      pytest.approx(40.0), 0, 0)
  assert side_by_side.entries(found)[1]['ap'] is None


def test_the_frontier_has_what_nothing_is_ahead_of():
  slow, fast, behind, unknown, tie = (
      network('slow', 0.5, 30), network('fast', 0.4, 10), network('behind', 0.39, 20),
      network('unknown', None, 1), network('tie', 0.5, 40))
  assert side_by_side.frontier([slow, tie, behind, unknown, fast]) == [fast, slow]


@pytest.mark.parametrize('others, first, more', [
    ([network('B', 0.3, 9)], 'Use A for this data: at its time (10.0 ms an image) no network is '
     'more accurate (AP 0.400).', []),
    ([network('B', 0.5, 10.4)], 'Use B for this data: AP 0.500 in 10.4 ms an image, where A has '
     'AP 0.400 in 10.0 ms.', []),
    ([network('B', 0.5, 20)], 'Use A for this data',
     ['The most accurate, B, has AP 0.500 in 20.0 ms, 2.00 of the time of A.']),
    ([network('B', 0.4, 8)], 'Use B for this data', ['two trainings of one network differ']),
    ([network('B', 0.46, 9), network('C', 0.405, 5)], 'Use B for this data',
     ['C is the fastest of those that are not behind A: AP 0.405 in 0.50 of its time.']),
    ([network('B', 0.42, 10)], 'Use B for this data', ['two trainings of one network differ']),
    ([network('B', 0.3, 9, 0, 3), network('C', 0.3, 9, 1, 3)], 'Use A for this data',
     ['The gates of B decide alike for all images'])])
def test_advice(others, first, more):
  sentences = side_by_side.advice([network('A', 0.4, 10), *others])
  assert sentences[0].startswith(first)
  assert len(sentences) == 1 + len(more)
  for sentence, words in zip(sentences[1:], more):
    assert words in sentence


def test_without_accuracy_nothing_is_recommended():
  sentence, = side_by_side.advice([network('A', None, 10), network('B', None, 5)])
  assert sentence == 'No network can be recommended: the accuracy is not known.'


def test_a_single_network_is_compared_with_nothing():
  assert not side_by_side.advice([network('A', 0.4, 10, 1, 3)])
  sentence, = side_by_side.advice([network('A', 0.4, 10, 0, 3)])
  assert 'decide alike' in sentence
