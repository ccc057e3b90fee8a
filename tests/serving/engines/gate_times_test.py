"""A converted model is timed with open and with shut gates, on the image that costs the most."""
import time

import numpy as np
import pytest

from official_ext.serving.engines import gate_times

SECONDS = 0.004


def _batches(*values):
  """Returns batches of one image of one value."""
  return [np.full([1, 2, 2, 3], value, np.uint8) for value in values]


class Model:
  """Waits where its gate is open: for images with a value above 0, and all at a budget."""

  def __init__(self, scalar):
    self.scalar, self.calls = scalar, []

  def __call__(self, images, scalars):
    value = scalars[self.scalar]
    self.calls.append((int(images.max()), value))
    is_open = value > 0 if self.scalar == 'budget' else value < 1 and images.max() > 0
    if is_open:
      time.sleep(SECONDS)
    return {'boxes': np.ones([len(images), 4]),
            'multiply_adds': np.full(len(images), 1.0 + images.max() * is_open)}


@pytest.mark.parametrize('scalar, opened, shut', [('budget', 1, 0), ('gate_threshold', 0, 1)])
def test_open_gates_take_longer(scalar, opened, shut):
  model = Model(scalar)
  times = gate_times.measure(model, [*_batches(1, 5, 2), np.full([4, 2, 2, 3], 9)], scalar)
  assert times.images == 1
  assert times.opened >= 1e3 * SECONDS > times.shut
  # The image with the most multiply-adds is timed, open and shut in turn.
  assert model.calls[:3] == [(1, opened), (5, opened), (2, opened)]
  assert set(model.calls[3:]) == {(5, opened), (5, shut)}
  assert model.calls[-4:] == [(5, opened), (5, shut)] * 2


def test_images_whose_gates_are_shut_are_not_timed():
  model = Model('gate_threshold')
  assert gate_times.measure(model, _batches(0, 0), 'gate_threshold') is None
  assert gate_times.measure(model, _batches(0, 1), 'gate_threshold') is not None


def test_slow_models_are_called_a_few_times_only(monkeypatch):
  monkeypatch.setattr(gate_times, '_SECONDS', 4 * SECONDS)
  model = Model('budget')
  gate_times.measure(model, _batches(1), 'budget')
  # One call to find the image and one to compare, one for its time, and four in turn of each.
  assert len(model.calls) == 3 + 2 * 4
