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
  difference = export_checks.boxes_difference(found, other)
  assert (difference <= 0.01) == is_allowed
  assert difference in (pytest.approx(distance, abs=1e-6), np.inf)
