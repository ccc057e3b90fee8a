"""Networks side by side: what is measured, which are best, and what is said of them."""
import types

import numpy as np
import pytest

from official_ext.serving import side_by_side
from official_ext.utils import timing


def network(name, ap, ms, decides=0, gates=0, **more):
  return side_by_side.Network(name, ap, ap, 1.0, 1.0, 1.0, ms, ms, ms, decides, gates, **more)


class Detector:
  """Says which image it gets, and at which budget."""

  def __init__(self, name, log, budgets=()):
    self._name, self._log, self._budget = name, log, None
    self.description = {'budgets': {'points': [
        {'budget': budget, 'ap': budget / 2, 'ap50': 1.0, 'gmac_mean': 1 + budget}
        for budget in budgets]}} if budgets else {}

  def set_budget(self, budget):
    self._budget = budget

  def __call__(self, images):
    self._log.append((self._name, self._budget, *images.shape[:2]))


def test_costs_times_and_gates_are_of_each_network(monkeypatch):
  log = []

  def interleaved(functions, repeats, label):
    assert repeats == 3 and label
    for function in functions.values():
      function()

    def times(name, engine, budget, number):
      factor = (10 if name == 'second' else 1) * (1 + (budget or 0)) * (
          0.5 if engine == 'other' else 1)
      return np.array([3, 1, 2]) * 1e-3 * factor * (number + 1)

    # Seconds: 1, 2, 3 times the height of the image, times the factor.
    return {key: times(*key) for key in functions}

  monkeypatch.setattr(timing, 'interleaved', interleaved)
  predicted = {
      'first': types.SimpleNamespace(
          costs=[{'multiply_adds': cost} for cost in (1e9, 2e9, 6e9)],
          gates=lambda: {'a': np.array([0, 1, 0]), 'b': np.array([1, 1, 1])},
          evaluation={'ap': 0.5, 'ap50': 0.75, 'ap_low': 0.375, 'ap_high': 0.625}, budget=0.5),
      'second': types.SimpleNamespace(
          costs=[{'multiply_adds': 4e9}], gates=lambda: {}, evaluation={'ap': -1.0, 'ap50': -1.0},
          budget=None)}
  images = [np.zeros([1, 1, 3], np.uint8), np.zeros([2, 1, 3], np.uint8)]
  candidates = {
      'first': side_by_side.Candidate(
          {'tensorflow': Detector('first', log, [0.5, 1.0]), 'other': Detector('other', log)},
          predicted['first']),
      'second': side_by_side.Candidate(
          {'tensorflow': Detector('second', log)}, predicted['second'])}
  found = side_by_side.describe(
      candidates, side_by_side.time_images(candidates, images, 3))
  assert sorted(log, key=str) == [
      (name, budget, 1, height) for name, budget in (
          ('first', 0.5), ('first', 1.0), ('other', 0.5), ('second', None)) for height in (1, 2)]
  approx = pytest.approx
  assert found[0] == side_by_side.Network(
      'first', 0.5, 0.75, 3.0, 1.0, 6.0, approx(4.5), approx(3.0), approx(6.0), 1, 2, 0.5,
      [{'budget': 0.5, 'ap': 0.25, 'gmac_mean': 1.5, 'ms_mean': approx(4.5)},
       {'budget': 1.0, 'ap': 0.5, 'gmac_mean': 2.0, 'ms_mean': approx(6.0)}],
      {'other': {'ms_mean': approx(2.25), 'ms_min': approx(1.5), 'ms_max': approx(3.0)}},
      3, 0.375, 0.625)
  assert found[1] == side_by_side.Network(
      'second', None, None, 4.0, 4.0, 4.0, approx(30.0), approx(20.0), approx(40.0), 0, 0, None,
      [], {}, 1)
  assert side_by_side.entries(found)[1]['ap'] is None
  there, = side_by_side.in_engine(found, 'other')
  assert (there.name, there.ms_max) == ('first', approx(3.0))


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
    ([network('B', 0.3, 9, 0, 3), network('C', 0.3, 9, 3, 3)], 'Use A for this data',
     ['The gates of B decide alike for all images, so it spends the same on each: let them']),
    ([network('B', 0.5, 9, 0, 3, budget=0.25)], 'Use B at budget 0.25 for this data',
     ['The gates of B at budget 0.25 decide alike for all images, so it spends the same on each: '
      'give them another budget']),
    ([network('B', 0.3, 9, 1, 3)], 'Use A for this data',
     ['2 of the 3 gates of B decide alike for all images: task.budget.information rewards'])])
def test_advice(others, first, more):
  sentences = side_by_side.advice([network('A', 0.4, 10), *others])
  assert sentences[0].startswith(first)
  assert len(sentences) == 1 + len(more)
  for sentence, words in zip(sentences[1:], more):
    assert words in sentence


@pytest.mark.parametrize('ms, words', [
    (4, 'In other that is B at budget 0.5 instead: AP 0.500 in 4.0 ms, A takes 5.0 ms.'),
    (9, 'In other that is A too: AP 0.400 in 5.0 ms, A takes 5.0 ms.')])
def test_the_best_of_another_engine_is_named(ms, words):
  def times(value):
    return {'other': {'ms_mean': value, 'ms_min': value, 'ms_max': value}}

  sentences = side_by_side.advice([
      network('A', 0.4, 10, engines=times(5)),
      network('B', 0.5, 20, 1, 3, budget=0.5, engines=times(ms))])
  assert sentences[0].startswith('Use A') and sentences[2] == words


def test_without_accuracy_nothing_is_recommended():
  sentence, = side_by_side.advice([network('A', None, 10), network('B', None, 5)])
  assert sentence == 'No network can be recommended: the accuracy is not known.'


def test_a_single_network_is_compared_with_nothing():
  assert not side_by_side.advice([network('A', 0.4, 10, 3, 3)])
  sentence, = side_by_side.advice([network('A', 0.4, 10, 0, 3)])
  assert 'decide alike' in sentence


@pytest.mark.parametrize('precision', [0.0, None])
def test_networks_that_find_nothing_are_not_recommended(precision):
  sentence, = side_by_side.advice([network('A', 0.0, 10), network('B', precision, 5)])
  assert sentence.startswith('No network can be recommended: AP is 0 for all')


def test_one_image_does_not_say_that_gates_decide_alike():
  assert not side_by_side.advice([network('A', 0.4, 10, 0, 3, images=1)])
  assert side_by_side.advice([network('A', 0.4, 10, 0, 3, images=2)])
