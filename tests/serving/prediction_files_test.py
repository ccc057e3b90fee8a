"""Predictions are read back beside the annotations of their images."""
import json

import numpy as np
from PIL import Image
import pytest

from official_ext.serving import prediction_files
from official_ext.utils import command_line

CROWD = {'image_id': 2, 'category_id': 7, 'bbox': [0, 0, 9, 9], 'iscrowd': 1}
TRUTH = {
    'images': [{'id': 1, 'file_name': 'a.png', 'height': 40, 'width': 60},
               {'id': 2, 'file_name': 'deep/b.png', 'height': 20, 'width': 30}],
    'categories': [{'id': 7, 'name': 'thing'}],
    'annotations': [{'image_id': 2, 'category_id': 7, 'bbox': [3, 4, 10, 6], 'iscrowd': 0}, CROWD]}
DETECTIONS = [{'image_id': 2, 'category_id': 7, 'bbox': [3, 4, 10, 6], 'score': score}
              for score in (0.9, 0.1)]
COSTS = [{'image_id': 1, 'file': 'gone/a.png', 'multiply_adds': 5.0,
          'gates': {'neck_3': 1.0, 'neck_4': [0.0, 1.0]}},
         {'image_id': 2, 'file': 'gone/deep/b.png', 'multiply_adds': 3.0,
          'gates': {'neck_3': 0.0, 'neck_4': [1.0, 0.0]}}]


@pytest.fixture
def predictions(tmp_path):
  (tmp_path / 'truth.json').write_text(json.dumps(TRUTH))
  for name, content in (('predictions', DETECTIONS), ('evaluation', {'ap': 0.5}),
                        ('costs', {'images': COSTS})):
    (tmp_path / f'{name}.json').write_text(json.dumps(content))
  (tmp_path / 'images').mkdir()
  Image.fromarray(np.full([20, 30, 3], 100, np.uint8)).save(tmp_path / 'images' / 'b.png')
  return prediction_files.Predictions(tmp_path, tmp_path / 'truth.json', tmp_path / 'images')


def test_costs_and_gates_are_sorted_from_the_cheapest_image(predictions):
  assert [cost['image_id'] for cost in predictions.costs] == [2, 1]
  gates = predictions.gates()
  assert {name: gate.tolist() for name, gate in gates.items()} == {
      'neck_3': [0, 1], 'neck_4 path 0': [1, 0], 'neck_4 path 1': [0, 1]}


def test_objects_have_corners_and_crowds_are_left_out(predictions):
  np.testing.assert_array_equal(predictions.objects(2), [[4, 3, 10, 13]])
  assert predictions.objects(1).shape == (0, 4)
  assert predictions.size(2) == (20, 30)


def test_ground_truth_and_detections_are_drawn_on_the_enlarged_image(predictions):
  truth, detected = predictions.pictures(2, threshold=0.95)
  assert truth.shape == detected.shape == (320, 480, 3)
  assert (detected == 100).all()
  changed = (truth != 100).any(axis=-1)
  factor = 16
  assert changed[4 * factor, 3 * factor:13 * factor].all()
  assert not changed[10 * factor + 1:].any() and not changed[:, 13 * factor + 1:].any()
  _, detected = predictions.pictures(2)
  assert (detected != 100).any()


def test_an_image_is_shown_as_it_was_predicted(tmp_path, predictions):
  """A photograph that is annotated as stored is not turned; one that is gone is named."""
  with pytest.raises(command_line.CommandError, match='gone/a.png was predicted and is gone'):
    predictions.image(1)
  exif = Image.Exif()
  exif[0x0112] = 6
  pixels = np.zeros([40, 60, 3], np.uint8)
  pixels[:10] = 255
  Image.fromarray(pixels).save(tmp_path / 'images' / 'a.png', exif=exif)
  np.testing.assert_array_equal(predictions.image(1), pixels)
  (tmp_path / 'images' / 'a.png').write_text('no image')
  with pytest.raises(command_line.CommandError, match='a.png: image file is broken'):
    predictions.image(1)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(command_line.CommandError, match='evaluation.json cannot be read'):
    prediction_files.read_json(tmp_path / 'evaluation.json')


@pytest.mark.parametrize('name, content, said', [
    ('costs', {}, "damaged .*'images'"), ('costs', [], 'damaged'),
    ('costs', {'images': 3}, 'damaged'),
    ('costs', {'images': []}, 'has no multiply-adds'),
    ('costs', {'images': [{'multiply_adds': 1.0}]}, "damaged .*'image_id'"),
    ('predictions', [3], 'damaged'), ('predictions', [{'score': 1}], "damaged .*'image_id'"),
    ('evaluation', 3, 'damaged'), ('evaluation', 'none', 'damaged'),
    ('categories', [{}], "damaged .*'id'")])
def test_damaged_predictions_are_refused(predictions, tmp_path, name, content, said):
  del predictions  # its files are there
  (tmp_path / f'{name}.json').write_text(json.dumps(content))
  with pytest.raises(command_line.CommandError, match=said):
    prediction_files.Predictions(tmp_path, None, tmp_path / 'images')
