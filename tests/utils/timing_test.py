"""Interleaved timing: the order of the calls, the time that counts, and the ratio of medians."""
import numpy as np
import pytest

from official_ext.utils import timing


@pytest.fixture
def clock(monkeypatch):
  """A clock that goes on only when a function of the test says so: `clock(seconds)`."""
  now = [0.0]

  def go_on(seconds):
    now[0] += seconds

  monkeypatch.setattr(timing.time, 'perf_counter', lambda: now[0])
  return go_on


def test_functions_are_called_in_turn_after_a_warm_up(clock):
  calls = []
  functions = {name: lambda name=name: calls.append(name) for name in 'ab'}
  seconds = timing.interleaved(functions, 2)
  assert calls == ['a', 'b'] * 3
  assert {name: values.shape for name, values in seconds.items()} == {'a': (2,), 'b': (2,)}


def test_the_shortest_of_several_calls_counts(clock):
  durations = iter([9.0, 3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
  seconds = timing.interleaved({'a': lambda: clock(next(durations))}, 2, calls=3)
  np.testing.assert_allclose(seconds['a'], [1.0, 4.0])


def test_ratio_is_the_median_of_ratios():
  seconds = {'a': np.array([1.0, 6.0, 30.0]), 'b': np.array([2.0, 3.0, 10.0])}
  assert timing.median_ratio(seconds, 'a', 'b') == 2.0


def test_times_are_told_in_milliseconds_with_their_quartiles():
  assert timing.summaries({'FPN': np.array([.004, .001, .002, .005, .003])}) == {
      'FPN': {'low': 2.0, 'median': 3.0, 'high': 4.0}}


def test_a_label_shows_progress(capsys):
  timing.interleaved({'a': lambda: None}, 2)
  assert not capsys.readouterr().err
  timing.interleaved({'a': lambda: None}, 2, label='timing')
  assert 'timing: 2/2, took 0:00' in capsys.readouterr().err
