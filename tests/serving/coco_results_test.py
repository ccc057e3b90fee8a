"""COCO results of a detector's outputs, against numbers by hand."""
import json

import numpy as np
from official.vision.evaluation import coco_utils
from pycocotools import mask as mask_lib
import pytest

from official_ext.datasets import truth as truth_lib
from official_ext.serving import coco_results
from official_ext.serving import labels

PLAIN = labels.Labels({}, {})


def _outputs(boxes, original=(100, 200), scale=(0.5, 0.25), offset=(0, 0), **more):
  info = np.array([[original, (64, 64), scale, offset]], np.float32)
  count = len(boxes)
  return {
      'detection_boxes': np.array([boxes], np.float32),
      'detection_scores': np.linspace(0.9, 0.1, count, dtype=np.float32)[None],
      'detection_classes': np.arange(1, count + 1, dtype=np.int32)[None],
      'num_detections': np.array([count], np.int32),
      'image_info': info, **more}


def test_boxes_are_scaled_back_and_not_clipped():
  outputs = _outputs([[10, 5, 30, 40], [40, 0, 60, 64]])
  found = coco_results.detections(outputs, 0, 7, False, PLAIN)
  assert [d['bbox'] for d in found] == [[20, 20, 140, 40], [0, 80, 256, 40]]
  assert [d['category_id'] for d in found] == [1, 2]
  assert [d['image_id'] for d in found] == [7, 7]
  np.testing.assert_allclose([d['score'] for d in found], [0.9, 0.1])


def test_offsets_are_added_before_scaling():
  found = coco_results.detections(_outputs([[0, 0, 8, 8]], offset=(4, 6)), 0, 1, False, PLAIN)
  assert found[0]['bbox'] == [24, 8, 32, 16]


def test_normalized_boxes_are_shares_of_the_image():
  found = coco_results.detections(_outputs([[0.1, 0.25, 0.5, 1.0]]), 0, 1, True, PLAIN)
  np.testing.assert_allclose(found[0]['bbox'], [50, 10, 150, 40], atol=1e-3)


def test_boxes_and_masks_are_those_of_model_gardens_evaluator():
  """Its own code turns the same outputs into COCO annotations; every digit must agree."""
  random = np.random.default_rng(0)
  corners = np.sort(random.uniform(0, 64, [2, 3, 2, 2]), axis=2).reshape(2, 3, 4)
  outputs = _outputs(corners[0], scale=(0.37, 0.41))
  outputs['detection_masks'] = random.uniform(0, 1, [1, 3, 28, 28]).astype(np.float32)
  scale = np.tile(outputs['image_info'][:, 2:3, :], (1, 1, 2))
  predictions = {
      'source_id': [np.array([7])], 'image_info': [outputs['image_info']],
      'detection_boxes': [outputs['detection_boxes'] / scale],
      **{name: [outputs[name]] for name in (
          'detection_masks', 'detection_classes', 'detection_scores', 'num_detections')}}
  expected = coco_utils.convert_predictions_to_coco_annotations(predictions)
  found = coco_results.detections(outputs, 0, 7, False, PLAIN)
  coco_results.add_masks(found, outputs['detection_masks'][0], 100, 200)
  assert len(found) == len(expected) == 3
  for detection, other in zip(found, expected):
    assert detection['bbox'] == [float(value) for value in other['bbox']]
    assert detection['score'] == float(other['score'])
    assert detection['segmentation']['counts'].encode() == other['segmentation']['counts']


def test_padding_is_not_a_detection():
  outputs = _outputs([[0, 0, 8, 8], [0, 0, 9, 9]])
  outputs['num_detections'][0] = 1
  assert len(coco_results.detections(outputs, 0, 1, False, PLAIN)) == 1


def test_masks_fill_their_half_of_the_box():
  found = coco_results.detections(_outputs([[10, 5, 30, 40]]), 0, 1, False, PLAIN)
  masks = np.zeros([1, 28, 28], np.float32)
  masks[:, :, :14] = 1.0
  coco_results.add_masks(found, masks, 100, 200)
  mask = mask_lib.decode(found[0]['segmentation'])
  assert mask.shape == (100, 200)
  expected = np.zeros_like(mask)
  expected[20:60, 20:90] = 1
  both = np.sum(mask & expected) / np.sum(mask | expected)
  assert both > 0.93  # Model Garden pastes masks with an error of about a pixel.
  json.dumps(found)


def test_costs_and_gates():
  outputs = {
      'multiply_adds': np.float32([5, 7]), 'executed_multiply_adds': np.float32([1, 3]),
      'gate_dyfpn_4': np.float32([0, 1]), 'gate_dyfpn_3': np.float32([[1, 0], [0, 1]]),
      'gate_pixels': np.float32([[[0, 0]], [[1, 0]]]), 'image_info': np.zeros([2, 4, 2])}
  assert coco_results.cost_entry(outputs, 1) == {
      'multiply_adds': 7.0, 'executed_multiply_adds': 3.0,
      'gates': {'dyfpn_3': [0.0, 1.0], 'dyfpn_4': 1.0, 'pixels': 0.5}}
  assert coco_results.cost_entry({'image_info': np.zeros([1, 4, 2])}, 0) == {}


@pytest.fixture
def truth(tmp_path):
  """COCO annotations of two images with one object each."""
  path = tmp_path / 'truth.json'
  path.write_text(json.dumps({
      'images': [{'id': i, 'width': 100, 'height': 100, 'file_name': f'{i}.jpg'} for i in (1, 2)],
      'categories': [{'id': 1, 'name': 'thing'}],
      'annotations': [
          {'id': i, 'image_id': i, 'category_id': 1, 'bbox': [10, 10, 40, 40], 'area': 1600,
           'iscrowd': 0} for i in (1, 2)]}), encoding='utf-8')
  return path


def test_average_precision(truth):
  hit = {'image_id': 1, 'category_id': 1, 'bbox': [10, 10, 40, 40], 'score': 0.9}
  results = coco_results.average_precision(truth_lib.Truth(truth), [hit], [1])
  assert results['ap'] == pytest.approx(1.0)
  # Half of the objects are found: precision is 1 up to recall 0.5, at 51 of 101 points.
  results = coco_results.average_precision(truth_lib.Truth(truth), [hit], [1, 2])
  assert results['ap'] == pytest.approx(51 / 101)
  # The IoU is 40 * 30 / (40 * 50), a match at three of ten thresholds: 0.5, 0.55 and 0.6.
  shifted = {**hit, 'bbox': [20, 10, 40, 40]}
  results = coco_results.average_precision(truth_lib.Truth(truth), [shifted], [1])
  assert results['ap50'] == pytest.approx(1.0) and results['ap75'] == 0
  assert results['ap'] == pytest.approx(0.3)
  assert set(hit) == {'image_id', 'category_id', 'bbox', 'score'}  # The detections are not changed.


def test_average_precision_without_any_detection(truth):
  assert coco_results.average_precision(truth_lib.Truth(truth), [], [1, 2])['ap'] == 0


def test_the_interval_is_that_of_drawn_images(tmp_path):
  """Every draw is evaluated again, with images of their own for those that are drawn twice."""
  random = np.random.default_rng(1)
  number, resamples = 5, 40
  boxes = [[10, 10, 40, 40], [50, 60, 20, 30]]
  found = [{'image_id': image, 'category_id': 1 + (image % 2), 'score': random.uniform(),
            'bbox': [box[0] + random.uniform(0, 12), *box[1:]]}
           for image in range(1, number + 1) for box in boxes[:1 + image % 2]]

  def evaluate(drawn):
    path = tmp_path / 'drawn.json'
    path.write_text(json.dumps({
        'images': [{'id': new, 'width': 100, 'height': 100, 'file_name': f'{new}.jpg'}
                   for new in range(1, len(drawn) + 1)],
        'categories': [{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'b'}],
        'annotations': [
            {'id': 10 * new + number, 'image_id': new, 'category_id': 1 + (old % 2), 'bbox': box,
             'area': box[2] * box[3], 'iscrowd': 0}
            for new, old in enumerate(drawn, 1) for number, box in enumerate(boxes)]}))
    predicted = [{**item, 'image_id': new} for new, old in enumerate(drawn, 1)
                 for item in found if item['image_id'] == old]
    truth = truth_lib.Truth(path)
    numbers = list(range(1, len(drawn) + 1))
    return (coco_results.average_precision(truth, predicted, numbers)['ap'],
            lambda: coco_results.precision_interval(truth, predicted, numbers, resamples))

  _, interval = evaluate(range(1, number + 1))
  low, high = interval()
  random = np.random.default_rng(0)
  values = [evaluate((1 + random.integers(0, number, number)).tolist())[0]
            for _ in range(resamples)]
  assert (low, high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
  assert low < high - 0.05


def test_without_objects_there_is_no_interval(truth):
  content = json.loads(truth.read_text())
  truth.write_text(json.dumps({**content, 'annotations': []}))
  assert coco_results.precision_interval(truth_lib.Truth(truth), [], [1, 2], 3) == (-1.0, -1.0)


def test_masks_are_evaluated_if_annotations_and_detections_have_them(truth):
  outline = [[10, 10, 50, 10, 50, 50, 10, 50]]
  annotations = json.loads(truth.read_text(encoding='utf-8'))
  mask = np.zeros([100, 100], np.uint8, order='F')
  mask[10:50, 10:30] = 1  # Half of the object.
  encoded = mask_lib.encode(mask)
  hit = {'image_id': 1, 'category_id': 1, 'bbox': [10, 10, 40, 40], 'score': 0.9,
         'segmentation': {**encoded, 'counts': encoded['counts'].decode()}}
  assert 'mask_ap' not in coco_results.average_precision(truth_lib.Truth(truth), [hit], [1])
  for annotation in annotations['annotations']:
    annotation['segmentation'] = outline
  truth.write_text(json.dumps(annotations), encoding='utf-8')
  results = coco_results.average_precision(truth_lib.Truth(truth), [hit], [1])
  assert results['ap'] == pytest.approx(1.0)
  assert results['mask_ap'] == pytest.approx(0.1)  # IoU 0.5, a match at one of ten thresholds.
