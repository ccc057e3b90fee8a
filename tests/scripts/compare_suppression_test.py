"""Detections of two versions of suppression are paired by class, score and place."""
import numpy as np
import pytest

import compare_suppression


def _detections(boxes, scores, classes):
  return {'boxes': np.float32(boxes).reshape(-1, 4), 'scores': np.float32(scores),
          'classes': np.int32(classes)}


BOXES = [[0, 0, 100, 100], [0, 0, 100, 100], [50, 50, 90, 90]]
BASE = _detections(BOXES, [.9, .8, .7], [1, 2, 1])


@pytest.mark.parametrize('other, expected', [
    (BASE, 0),
    (_detections(BOXES[::-1], [.7, .8, .9], [1, 2, 1]), 0),
    (_detections([[0, 0, 100, 100.9], *BOXES[1:]], [.9, .8, .7], [1, 2, 1]), 0),
    (_detections([[0, 0, 100, 103], *BOXES[1:]], [.9, .8, .7], [1, 2, 1]), 2),
    (_detections(BOXES, [.9, .8, .69], [1, 2, 1]), 2),
    (_detections(BOXES, [.9, .8, .7], [1, 1, 1]), 2),
    (_detections(BOXES[:2], [.9, .8], [1, 2]), 1),
    (_detections([], [], []), 3)])
def test_detections_without_a_partner_are_counted_on_both_sides(other, expected):
  assert compare_suppression.without_partner(BASE, other) == expected
  assert compare_suppression.without_partner(other, BASE) == expected


def test_two_equal_detections_need_two_partners():
  twice = _detections(BOXES[:1] * 2, [.9, .9], [1, 1])
  once = _detections(BOXES[:1], [.9], [1])
  assert compare_suppression.without_partner(twice, once) == 1
