"""The comparison of an export allows no gate of an image to differ, and few gates of positions."""
import numpy as np
import pytest

from official_ext.serving import export_checks
from official_ext.utils import command_line


def outputs(positions=0, image=1.0, cost=4e9):
  """Returns outputs of an image; so many positions of a map of 256 are open."""
  gate = np.zeros([1, 16, 16, 1], np.float32)
  gate.reshape(-1)[:positions] = 1e-6
  return {'multiply_adds': np.float32([cost]), 'gate_head_depth_4': gate,
          'gate_neck_3': np.float32([image])}


@pytest.mark.parametrize('changed, wrong', [
    ({}, None),
    ({'positions': 1}, None),
    ({'positions': 1, 'cost': 4e9 + 7e6}, None),
    ({'positions': 1, 'cost': 4e9 + 9e6}, r'multiply_adds by 8.99994e.06 .allowed: 8e.06'),
    ({'positions': 2}, 'gate_head_depth_4 by 0.0078125 .allowed: 0.00390625'),
    ({'cost': 4e9 + 512}, 'multiply_adds by 512 .allowed: 0'),
    ({'image': 0.0}, 'gate_neck_3 by 1 .allowed: 0')])
def test_which_differences_are_refused(changed, wrong):
  comparison = export_checks.Comparison()
  comparison.add(outputs(), outputs())
  comparison.add(outputs(), outputs(**changed))
  if wrong is None:
    comparison.check()
    return
  with pytest.raises(command_line.CommandError, match=wrong):
    comparison.check()


@pytest.mark.parametrize('moved, is_allowed', [(3e-3, True), (5e-3, False)])
def test_intermediate_features_may_differ_by_rounding(moved, is_allowed):
  found = {'backbone_3': np.float32([[[[-40.0, 1.0]]]])}
  comparison = export_checks.Comparison()
  comparison.add(found, {'backbone_3': found['backbone_3'] + np.float32(moved)})
  if is_allowed:
    comparison.check()
    return
  with pytest.raises(command_line.CommandError, match='backbone_3 by 0.005'):
    comparison.check()


def test_a_flipped_position_excuses_no_cost_of_another_batch():
  comparison = export_checks.Comparison()
  comparison.add(outputs(), outputs(positions=1, cost=4e9 + 512))
  comparison.add(outputs(), outputs(cost=4e9 + 512))
  with pytest.raises(command_line.CommandError, match='multiply_adds by 512 .allowed: 0'):
    comparison.check()


@pytest.mark.parametrize('distance, score, kind, is_allowed', [
    (0.0, 0.5, 1, True), (0.0, 0.5004, 1, True), (0.02, 0.5, 1, False), (0.0, 0.503, 1, False),
    (0.0, 0.5, 3, False)])
def test_detections_of_equal_scores_may_change_places(distance, score, kind, is_allowed):
  found = {'detection_boxes': np.float32([[[0, 0, 9, 9], [5, 5, 7, 7]]]),
           'detection_scores': np.float32([[0.5, 0.5]]), 'detection_classes': np.int32([[1, 2]])}
  other = {name: value[:, ::-1].copy() for name, value in found.items()}
  other['detection_boxes'][0, 1] += distance
  other['detection_scores'][0, 1], other['detection_classes'][0, 1] = score, kind
  comparison = export_checks.Comparison()
  comparison.add(found, other)
  if is_allowed:
    comparison.check()
    assert comparison.differences['detection_boxes'] == distance
    return
  with pytest.raises(command_line.CommandError,
                     match='in (detection_boxes|exchanged_detections) by'):
    comparison.check()


def detections(scores):
  """Returns the outputs of an image with detections far from each other, at most five."""
  count, padding = len(scores), 5 - len(scores)
  boxes = np.float32([[20 * number, 0, 20 * number + 9, 9] for number in range(count)])
  boxes += np.float32(scores)[:, None] * 100  # Each score has a place of its own.
  return {'detection_boxes': np.pad(boxes, [(0, padding), (0, 0)])[None],
          'detection_scores': np.pad(np.float32(scores), (0, padding))[None],
          'detection_classes': np.ones([1, 5], np.int32),
          'detection_masks': np.pad(np.float32(scores), (0, padding))[None, :, None, None],
          'num_detections': np.int32([count])}


def test_a_candidate_at_the_threshold_may_be_there_for_one_image_of_many():
  # The detections behind it move up by one place; each is compared with itself.
  full = detections([0.9, 0.7, 0.5, 0.3])
  fewer = {name: np.insert(np.delete(value, 1, axis=1), 4, 0, axis=1)
           for name, value in full.items() if value.ndim > 1}
  fewer['num_detections'] = np.int32([3])
  comparison = export_checks.Comparison()
  for _ in range(3):
    comparison.add(full, full)
  comparison.add(full, fewer)
  comparison.check()
  assert comparison.differences['num_detections'] == 1
  comparison.add(fewer, full)
  with pytest.raises(command_line.CommandError,
                     match='one detection of each of 2 images .allowed: 1.25 of 5.'):
    comparison.check()


@pytest.mark.parametrize('name', ['detection_masks', 'num_detections'])
def test_detections_that_both_have_must_be_the_same(name):
  other = detections([0.9, 0.5])
  other[name] = other[name] + np.asarray(1, other[name].dtype)
  comparison = export_checks.Comparison()
  comparison.add(detections([0.9, 0.5]), other)
  with pytest.raises(command_line.CommandError, match=f'in {name} by 1'):
    comparison.check()
