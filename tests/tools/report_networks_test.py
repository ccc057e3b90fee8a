"""The network of the report is timed by its export, if that can open every gate."""
import argparse
import pathlib
import types

import numpy as np
import pytest

from official_ext.serving import converted_detectors
from official_ext.serving import prediction_files
from official_ext.tools import report_networks
from official_ext.utils import timing

FOLDER = pathlib.Path('shown')


class Detector:
  """Stands for an export that was measured at some budgets."""
  engine = 'tensorflow'

  def __init__(self, budgets):
    self.description = {'budgets': {'points': [
        {'budget': budget, 'ap': 0.5, 'gmac_mean': budget} for budget in budgets]}}

  def set_budget(self, budget):
    del budget
    return True

  def __call__(self, images):
    del images


@pytest.mark.parametrize('budgets, names', [
    ([0.25, 1.0], ['cheapest image', 'dearest image', 'every gate open']), ([0.25, 0.5], []),
    ([], [])])
def test_times_of_the_network_of_the_report(monkeypatch, budgets, names):
  budget = 0.25 if budgets else None
  shown = types.SimpleNamespace(
      costs=[{'image_id': number, 'multiply_adds': 1e9 * number} for number in range(1, 9)],
      image=lambda image_id: np.zeros([image_id, 2, 3], np.uint8), gates=lambda: {},
      evaluation={}, budget=budget)
  monkeypatch.setattr(prediction_files, 'Predictions', lambda folder, *_: (
      shown if folder == FOLDER else types.SimpleNamespace(**{**vars(shown), 'budget': None})))
  monkeypatch.setattr(converted_detectors, 'load_to_time', lambda path, _: Detector(
      budgets if path.name == 'routed' else []))

  def interleaved(functions, repeats, label):
    del repeats, label
    # Milliseconds: the height of the image at the budget 0.25, four times as many at 1.
    return {(name, engine, at, number): np.full([3], 1e-3 * (at or 0.25) * 4 * (
        function.args[2].shape[0])) for (name, engine, at, number), function in functions.items()}

  monkeypatch.setattr(timing, 'interleaved', interleaved)
  measured = report_networks.measure(argparse.Namespace(
      network=[['plain', 'plain', 'other'], ['routed', 'routed', './shown']],
      predictions=FOLDER, annotation_file=None, images=None), shown)
  assert [network.name for network in measured.networks] == ['plain', 'routed']
  assert list(measured.times) == names
  # The cheapest image is one pixel high, the dearest eight.
  expected = dict(zip(('cheapest image', 'dearest image', 'every gate open'), (1, 8, 32)))
  for name, times in measured.times.items():
    assert times == pytest.approx(dict.fromkeys(('low', 'median', 'high'), expected[name]))
