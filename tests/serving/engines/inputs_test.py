"""Converted models get images and scalars; scalars that are not given change nothing."""
import types

import numpy as np
import pytest

from official_ext.serving import converted_detectors
from official_ext.serving.engines import catalog
from official_ext.serving.engines import inputs
from official_ext.utils import command_line

IMAGES = np.zeros([1, 4, 4, 3], np.uint8)
OUTPUTS = {name: np.zeros([1]) for name in (
    'detection_boxes', 'detection_scores', 'detection_classes', 'num_detections', 'image_info')}


@pytest.mark.parametrize('names, values, expected', [
    (['inputs'], {'gate_threshold': 0.5}, {}),
    (['gate_threshold', 'inputs'], {}, {'gate_threshold': 0.0}),
    (['inputs', 'gate_threshold'], {'gate_threshold': 0.5}, {'gate_threshold': 0.5}),
    (['budget', 'inputs'], {}, {'budget': 1.0}),
    (['budget', 'inputs'], {'gate_threshold': 0.5, 'budget': 0.25}, {'budget': 0.25}),
])
def test_inputs_by_name(names, values, expected):
  fed = inputs.feed(names, IMAGES, values)
  assert fed.pop('inputs') is IMAGES
  assert inputs.scalars(names) == list(fed) == list(expected)
  assert fed == expected and all(value.dtype == np.float32 for value in fed.values())


@pytest.mark.parametrize('names', [['gate_threshold'], ['budget'], []])
def test_a_converted_detector_takes_the_scalar_that_its_model_has(monkeypatch, names):
  calls = []

  class Model:
    scalars = names

    def __init__(self, *unused):
      pass

    def __call__(self, images, scalars):
      calls.append(scalars)
      return OUTPUTS

  monkeypatch.setattr(catalog, 'engine_of', lambda path: 'it')
  monkeypatch.setattr(catalog, 'engine', lambda name: types.SimpleNamespace(Model=Model))
  detector = converted_detectors.ConvertedDetector('folder')
  detector(IMAGES)
  assert detector.set_gate_threshold(0.25) == (names == ['gate_threshold'])
  detector(IMAGES)
  assert detector.set_budget(0.5) == (names == ['budget'])
  detector(IMAGES)
  # A scalar that the model does not take leaves the one before it.
  threshold = {'gate_threshold': 0.25} if names == ['gate_threshold'] else {}
  assert calls == [{}, threshold, {'budget': 0.5} if names == ['budget'] else threshold]


def test_calls_of_a_conversion_have_the_default_budget_of_its_export(monkeypatch, tmp_path):
  calls = []
  model_type = type('Model', (), {
      '__init__': lambda self, *unused: None, 'scalars': ['budget'],
      '__call__': lambda self, images, scalars: calls.append(scalars) or OUTPUTS})
  monkeypatch.setattr(catalog, 'engine_of', lambda path: 'it')
  monkeypatch.setattr(catalog, 'engine', lambda name: types.SimpleNamespace(Model=model_type))
  (tmp_path / 'export.json').write_text('{"default_budget": 0.25}', encoding='utf-8')
  detector = converted_detectors.ConvertedDetector(tmp_path)
  detector(IMAGES)
  assert not detector.set_gate_threshold(0.0)
  detector(IMAGES)
  detector.set_budget(0.5)
  detector(IMAGES)
  assert calls == [{'budget': 0.25}, {'budget': 0.25}, {'budget': 0.5}]


@pytest.mark.parametrize('rule, missing', [
    ('', 'image_info'), ('"suppression": %s', 'decoded_boxes, decoded_box_scores, image_info')])
def test_a_conversion_that_detects_nothing_is_refused(monkeypatch, tmp_path, rule, missing):
  outputs = {name: value for name, value in OUTPUTS.items() if name != 'image_info'}
  model_type = type('Model', (), {
      '__init__': lambda self, *unused: None, 'scalars': [],
      '__call__': lambda self, images, scalars: outputs})
  monkeypatch.setattr(catalog, 'engine_of', lambda path: 'it')
  monkeypatch.setattr(catalog, 'engine', lambda name: types.SimpleNamespace(Model=model_type))
  rule = rule and rule % ('{"score_threshold": 0, "iou_threshold": 1, "max_detections": 1, '
                          '"best": "boxes", "levels": []}')
  (tmp_path / 'export.json').write_text(f'{{{rule}}}', encoding='utf-8')
  detector = converted_detectors.ConvertedDetector(tmp_path)
  with pytest.raises(command_line.CommandError, match=f'the converted model has no {missing}'):
    detector(IMAGES)


def test_engines_get_scalars():
  import tensorflow as tf
  images = tf.TensorSpec([None, None, None, 3], tf.uint8, 'inputs')
  specs = inputs.with_scalars({'inputs': images, 'budget': tf.TensorSpec(None, tf.float32)})
  assert specs == {'inputs': images, 'budget': tf.TensorSpec([], tf.float32, 'budget')}
