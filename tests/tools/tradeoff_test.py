"""At which thresholds and budgets detectors are evaluated."""
import argparse
import pathlib

import pytest

from official_ext.serving import converted_detectors
from official_ext.tools import evaluation
from official_ext.tools import tradeoff
from official_ext.utils import command_line


class _Detector:
  """Remembers what it was set to."""

  def __init__(self, name):
    self.takes, self.setting = name.split('_'), None
    self.description = {'gmac': {'static': 1.0}}

  def set_gate_threshold(self, threshold):
    self.setting = 'threshold', threshold
    return 'threshold' in self.takes

  def set_budget(self, budget):
    self.setting = 'budget', budget
    return 'budget' in self.takes


def test_budgets_replace_thresholds_where_a_detector_takes_them(monkeypatch, capsys):
  def evaluate(detector, images, truth):
    del images, truth
    name, value = detector.setting
    return {'ap': value if name in detector.takes else -1.0, 'ap50': 0.0, 'gmac_mean': 1.0,
            'gmac_min': 1.0, 'gmac_max': 1.0}

  monkeypatch.setattr(converted_detectors, 'load', lambda path: _Detector(path.name))
  monkeypatch.setattr(evaluation, 'evaluate', evaluate)
  names = ['plain', 'threshold', 'threshold_budget']
  args = argparse.Namespace(model_dir=[], saved_model=[pathlib.Path(name) for name in names],
                            thresholds=[0.5, 0.0], budgets=[1.0, 0.25, 1.0])
  found = [tuple(point[name] for name in ('model', 'threshold', 'budget', 'ap'))
           for point in tradeoff.points(args, None, None)]
  assert found == [
      ('plain', None, None, -1.0), ('threshold', 0.0, None, 0.0), ('threshold', 0.5, None, 0.5),
      ('threshold_budget', None, 0.25, 0.25), ('threshold_budget', None, 1.0, 1.0)]
  said = capsys.readouterr().out
  assert 'threshold_budget at budget 0.25: AP 0.250' in said
  assert said.count('takes no budget: --budgets is not used for it.') == 2
  assert said.count('plain takes no threshold: --thresholds is not used for it.') == 1
  args.budgets = []
  assert [point['threshold'] for point in tradeoff.points(args, None, None)] == [
      None, 0.0, 0.5, 0.0, 0.5]


def test_folders_of_one_name_are_told_apart(monkeypatch):
  monkeypatch.setattr(converted_detectors, 'load', lambda path: _Detector('threshold'))
  monkeypatch.setattr(evaluation, 'evaluate', lambda *unused: dict.fromkeys(
      ('ap', 'ap50', 'gmac_mean', 'gmac_min', 'gmac_max'), 0.5))
  args = argparse.Namespace(
      model_dir=[], saved_model=[pathlib.Path('a/saved_model'), pathlib.Path('b/saved_model')],
      thresholds=[0.0], budgets=[])
  assert [point['model'] for point in tradeoff.points(args, None, None)] == [
      'a/saved_model', 'b/saved_model']


def test_an_export_that_does_not_say_what_images_cost_is_refused_at_once(monkeypatch):
  detector = _Detector('plain')
  monkeypatch.setattr(converted_detectors, 'load', lambda path: detector)
  args = argparse.Namespace(
      model_dir=[], saved_model=[pathlib.Path('plain')], thresholds=[0.0], budgets=[])
  for description in ({}, {'gmac': {'static': 1.0}, 'outputs': 'detections'}):
    detector.description = description
    with pytest.raises(command_line.CommandError, match='plain does not say what its images cost'):
      tradeoff.points(args, None, None)
