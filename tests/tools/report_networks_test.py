"""Networks side by side: which are timed how, and that all are of the same data."""
import argparse
import json
import pathlib
import types

import numpy as np
import pytest

from official_ext.serving import converted_detectors
from official_ext.serving import prediction_files
from official_ext.tools import report_networks
from official_ext.utils import command_line
from official_ext.utils import timing

FOLDER = pathlib.Path('shown')
DIGEST = '0123'


class Detector:
  """Stands for an export that was measured at some budgets."""
  engine = 'tensorflow'

  def __init__(self, budgets):
    self.description = {'gmac': 1.0, 'budgets': {'data': {'digest': DIGEST}, 'points': [
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
      costs=[{'image_id': number, 'multiply_adds': 1e9 * number, 'file': f'{number}.jpg'}
             for number in range(1, 9)],
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
  monkeypatch.setattr(report_networks, '_data_digest', lambda *_: DIGEST)
  measured = report_networks.measure(argparse.Namespace(
      network=[['plain', 'plain', 'other'], ['routed', 'routed', './shown']],
      predictions=FOLDER, annotation_file=None, images=None), shown, {})
  assert [network.name for network in measured.networks] == ['plain', 'routed']
  assert list(measured.times) == names and not measured.notes
  # The cheapest image is one pixel high, the dearest eight.
  expected = dict(zip(('cheapest image', 'dearest image', 'every gate open'), (1, 8, 32)))
  for name, times in measured.times.items():
    assert times == pytest.approx(dict.fromkeys(('low', 'median', 'high'), expected[name]))


@pytest.mark.parametrize('data, digest, words', [
    ({'name': 'val', 'images': 3, 'digest': DIGEST}, DIGEST, None),
    ({'name': 'val', 'images': 3, 'digest': 'other'}, DIGEST, 'it is of 3 images of val'),
    # Tables of older versions have no digest; a report without annotations has none either.
    ({'name': 'val', 'images': 3}, DIGEST, 'it is of 3 images of val'),
    ({}, DIGEST, 'it is of other images of other data'),
    ({'digest': ''}, '', 'is not known to be of the images and annotations of this report')])
def test_tables_of_other_data_are_left_out(data, digest, words):
  detector = Detector([0.25, 1.0])
  table = detector.description['budgets'] = {**detector.description['budgets'], 'data': data}
  plain = types.SimpleNamespace(description={'gmac': 1.0})
  left_out = report_networks._leave_out_tables(
      {name: types.SimpleNamespace(detectors={'tensorflow': one})
       for name, one in (('plain', plain), ('routed', detector))}, digest)
  assert plain.description == {'gmac': 1.0}
  assert detector.description == {'gmac': 1.0, **({} if words else {'budgets': table})}
  assert len(left_out) == bool(words)
  for sentence in left_out:
    assert sentence.startswith('The table of budgets of routed is left out') and words in sentence


def test_data_are_told_from_others_by_images_and_annotations(tmp_path):
  annotations = tmp_path / 'annotations.json'
  annotations.write_text(json.dumps({'images': [], 'annotations': [], 'categories': []}))
  files = [tmp_path / f'{number}.jpg' for number in range(2)]
  for number, file in enumerate(files):
    file.write_bytes(bytes([number]))

  def digest(file=annotations, ids=(1, 2)):
    return report_networks._data_digest(
        argparse.Namespace(annotation_file=file), types.SimpleNamespace(costs=[
            {'image_id': image_id, 'file': str(path)} for image_id, path in zip(ids, files)]))

  first = digest()
  assert first and first == digest() and first != digest(ids=(2, 1)) and digest(None) == ''
  annotations.write_text('{}')
  second = digest()
  files[0].write_bytes(b'new')
  assert len({first, second, digest()}) == 3
  files[0].unlink()
  assert digest() == ''


def test_predictions_of_other_images_are_refused(monkeypatch):
  def predictions(folder, *_):
    names = ['a.jpg', 'b.jpg'] if folder == FOLDER else ['a.jpg']
    return types.SimpleNamespace(costs=[
        {'image_id': number, 'multiply_adds': 1e9, 'file': f'{folder}/{name}'}
        for number, name in enumerate(names)], budget=None, image=lambda _: None)

  monkeypatch.setattr(prediction_files, 'Predictions', predictions)
  with pytest.raises(command_line.CommandError, match='--network: few was not predicted on the '
                     'images of --predictions=shown; only one of them has b.jpg'):
    report_networks.measure(argparse.Namespace(
        network=[['one', 'export', 'few']], predictions=FOLDER, annotation_file=None, images=None),
                            predictions(FOLDER), {})
