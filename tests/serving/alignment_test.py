"""Boxes are compared in pixels, and proposals in any order, but not less strictly."""
import numpy as np
import pytest

from official_ext.serving import export_checks
from official_ext.serving.engines import verification
from official_ext.utils import command_line

PROPOSALS = {'suppression': {'levels': []}}
LOCATIONS = {'suppression': {'levels': [6]}}
# A photograph of 400 x 200 pixels that was resized to 128 x 64.
INFO = np.float32([[[400, 200], [128, 128], [0.32, 0.32], [0, 0]]])


def refused_for(wanted, got, description):
  """Returns what a conversion is refused for, after checking that an export is for the same."""
  found = verification.compare(lambda: wanted, lambda: got, [()], description)
  names = {name for name, difference in found.items() if not difference.is_allowed}
  comparison = export_checks.Comparison(description)
  comparison.add(wanted, got)
  if not names:
    comparison.check()
    return names
  with pytest.raises(command_line.CommandError) as error:
    comparison.check()
  assert all(f'{name} by ' in str(error.value) for name in names)
  return names


def detections(moved=0.0):
  """Returns two detections as shares of the image, one of which is longer by `moved`."""
  boxes = np.float32([[[0.1, 0.1, 0.5, 0.5], [0.5, 0.25, 0.75, 1.0]]])
  boxes[0, 1, 2] += np.float32(moved)
  return {'detection_boxes': boxes, 'detection_scores': np.float32([[0.9, 0.5]]),
          'detection_classes': np.int32([[1, 2]]), 'image_info': INFO}


@pytest.mark.parametrize('pixels, is_allowed', [(0.03, True), (0.07, False)])
def test_shares_may_differ_by_as_many_pixels_as_boxes_in_pixels(pixels, is_allowed):
  found = verification.compare(
      detections, lambda: detections(pixels / 128), [()], {'normalized_boxes': True})
  assert (found['exchanged_detections'].value == 0) == is_allowed
  if is_allowed:
    assert found['detection_boxes'].value == pytest.approx(pixels, abs=1e-4)


def test_an_export_with_shares_is_compared_in_pixels():
  comparison = export_checks.Comparison({'normalized_boxes': True})
  comparison.add(detections(), detections(0.005 / 128))
  comparison.check()
  assert comparison.differences['detection_boxes'] == pytest.approx(0.005, abs=1e-4)
  comparison.add(detections(), detections(0.02 / 128))
  with pytest.raises(command_line.CommandError, match='exchanged_detections'):
    comparison.check()


def proposals(count=40, classes=3):
  random = np.random.default_rng(0)
  corners = 20 * np.arange(count)[:, None, None] + np.zeros([1, classes, 2])
  boxes = np.concatenate([corners, corners + 10], -1).astype(np.float32)
  return {'decoded_boxes': boxes[None],
          'decoded_box_scores': random.random([1, count, classes], np.float32)}


def changed(function):
  outputs = {name: value.copy() for name, value in proposals().items()}
  function(outputs['decoded_boxes'][0], outputs['decoded_box_scores'][0])
  return outputs


def swap(boxes, scores):
  for values in (boxes, scores):
    values[[3, 7, 8]] = values[[8, 3, 7]]


def swap_boxes(boxes, scores):
  del scores
  boxes[[3, 7]] = boxes[[7, 3]]


def leave(boxes, scores):
  del scores
  boxes[20] += 500


def shift(boxes, scores):
  del scores
  boxes += 2


def spoil(boxes, scores):
  del scores
  boxes[20, 1] = np.nan


@pytest.mark.parametrize('change, description, refused', [
    (lambda *_: None, PROPOSALS, set()), (swap, PROPOSALS, set()),
    (swap, LOCATIONS, {'decoded_boxes', 'decoded_box_scores'}),
    (swap, {}, {'decoded_boxes', 'decoded_box_scores'}),
    (swap_boxes, PROPOSALS, {'decoded_boxes'}), (leave, PROPOSALS, {'decoded_boxes'}),
    (shift, PROPOSALS, {'decoded_boxes'}), (spoil, PROPOSALS, {'decoded_boxes'})])
def test_proposals_may_change_places_and_nothing_else(change, description, refused):
  assert refused_for(proposals(), changed(change), description) == refused


def test_outputs_of_other_shapes_are_refused():
  got = {name: value[:, :-1] for name, value in proposals().items()}
  found = verification.compare(proposals, lambda: got, [()], PROPOSALS)
  assert not found['decoded_boxes'].is_allowed
