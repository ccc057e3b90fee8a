"""Detections that rounding exchanges are told from wrong ones."""
import numpy as np
import pytest

from official_ext.serving import ties
from official_ext.serving.engines import verification

COUNT = 40
LIMIT = 0.05


def detections(rows, size=COUNT):
  """Returns the outputs of an image with detections `(top, left, score, class)` of 10 pixels."""
  rows = sorted(rows, key=lambda row: -row[2])[:size]
  values = np.zeros([1, size, 4], np.float32)
  for index, (top, left, score, kind) in enumerate(rows):
    values[0, index] = top, left, score, kind
  corners = values[..., :2]
  sides = np.where(values[..., 2:3] > 0, 10, 0)
  return {'detection_boxes': np.concatenate([corners, corners + sides], -1).astype(np.float32),
          'detection_scores': values[..., 2], 'detection_classes': values[..., 3].astype(np.int32)}


def grid(count=30):
  """Returns detections far from each other, the last ones of low scores."""
  return [(20.0 * index, 0.0, 0.9 - 0.02 * index, 1 + index % 3) for index in range(count)]


def difference(wanted, got, size=COUNT):
  return ties.difference(detections(wanted, size), detections(got, size), LIMIT)


def test_order_does_not_matter_and_small_distances_are_measured():
  rows = [(0.0, 0.0, 0.5, 1), (50.0, 50.0, 0.5, 1)]
  moved = [(50.03, 50.0, 0.5, 1), (0.0, 0.0, 0.5, 1)]
  assert difference(rows, moved).distance == pytest.approx(0.03, rel=1e-3)
  assert difference(rows, moved).exchanged == 0


def is_explained(found):
  """Returns whether ties are the reason of all differences."""
  return found.distance <= LIMIT and not found.single


# A pair that overlaps by more than half, of nearly equal scores: each engine keeps another one.
@pytest.mark.parametrize('rival, is_tie', [
    ((100.0, 102.0, 0.4, 1), True),
    ((100.0, 102.0, 0.4 + 0.9 * ties.TIE, 1), True),
    ((100.0, 102.0, 0.4 - 0.9 * ties.TIE, 1), True),
    ((100.0, 102.0, 0.4 + 2 * ties.TIE, 1), False),
    ((100.0, 102.0, 0.4 - 2 * ties.TIE, 1), False),
    ((100.0, 102.0, 0.4, 2), False),
    ((100.0, 107.0, 0.4, 1), False),
    ((100.0, 190.0, 0.4, 1), False)])
def test_one_of_two_overlapping_boxes(rival, is_tie):
  found = difference([*grid(), (100.0, 100.0, 0.4, 1)], [*grid(), rival])
  assert is_explained(found) == is_tie
  assert not is_tie or found.exchanged == pytest.approx(2 / 62)


def test_one_box_may_have_dropped_two_of_lower_scores():
  best, others = (100.0, 104.0, 0.4, 1), [(100.0, 99.0, 0.4, 1), (100.0, 109.0, 0.3, 1)]
  found = difference([*grid(), best], [*grid(), *others])
  assert found.distance == 0 and found.exchanged == pytest.approx(3 / 63)
  # Without the box that ties, nothing says why the best one is lacking.
  assert not is_explained(difference([*grid(), best], [*grid(), others[1]]))


@pytest.mark.parametrize('score, is_tie', [
    (0.3, True), (0.3 + 0.9 * ties.TIE, True), (0.3 + 2 * ties.TIE, False), (0.5, False)])
def test_the_last_of_the_most_detections(score, is_tie):
  rows = [(20.0 * index, 0.0, 0.9 - 0.02 * index, 1) for index in range(29)]
  found = difference([*rows, (0.0, 300.0, score, 1)], [*rows, (0.0, 600.0, 0.3, 1)], size=30)
  assert is_explained(found) == is_tie
  # Where detections are missing, none was left out for its place.
  assert not is_explained(
      difference([*rows, (0.0, 300.0, score, 1)], [*rows, (0.0, 600.0, 0.3, 1)]))


@pytest.mark.parametrize('rounding, is_tie', [(3 * ties.TIE, True), (ties.TIE, False)])
def test_engines_that_round_more_exchange_detections_further_apart(rounding, is_tie):
  rival = (100.0, 102.0, 0.4 + 4 * ties.TIE, 1)
  # The score of one detection that both have differs by rounding.
  got = [(*row[:2], row[2] + (rounding if index == 3 else 0), row[3])
         for index, row in enumerate(grid())]
  found = difference([*grid(), (100.0, 100.0, 0.4, 1)], [*got, rival])
  assert is_explained(found) == is_tie


@pytest.mark.parametrize('wanted, got', [
    (grid(), grid()[:-1]), (grid()[:-1], grid()), ([], grid(1)), (grid(), grid()[:3] + grid()[4:])])
def test_one_detection_less_is_counted_for_its_image(wanted, got):
  found = difference(wanted, got)
  assert (found.distance, found.single, found.changed, found.exchanged) == (0, 1, 1, 0)
  # A second one, of the same side or of the other, is too much.
  for more in ([(900.0, 900.0, 0.5, 1)], [(900.0, 900.0, 0.5, 1), (900.0, 800.0, 0.5, 1)]):
    assert difference(wanted, [*got, *more]).distance > LIMIT


def test_equal_detections():
  assert difference([], []) == difference(grid(), grid()) == (0, 0, 0, 0, 0, 0)


def test_scores_and_masks_of_detections_that_both_have():
  wanted, got = detections(grid()), detections([*grid()[::-1], (900.0, 900.0, 0.5, 1)])
  for outputs, offset in ((wanted, 0.0), (got, 0.25)):
    # The mask of a detection says which one it is.
    outputs['detection_masks'] = np.tile(
        outputs['detection_boxes'][..., :1, None], [1, 1, 2, 2]) + offset
  scores = got['detection_scores']
  got['detection_scores'] = scores + np.float32(5e-4) * (scores > 0)
  found = ties.difference(wanted, got, LIMIT)
  assert found.single == 1 and found.scores == pytest.approx(5e-4, rel=1e-3)
  assert found.masks == 0.25


@pytest.mark.parametrize('images, allowed', [(1, 1), (4, 1), (8, 2), (18, 4.5)])
def test_how_many_images_may_have_a_single_detection(images, allowed):
  assert ties.allowed_singles(images) == allowed


def test_what_one_side_lacks_is_farther_than_any_box():
  found = difference(grid(), [*grid()[:-2], (0.0, 0.0, 0.001, 9)])
  assert 590 < found.distance < 1000


@pytest.mark.parametrize('name', ['detection_boxes', 'detection_scores'])
def test_numbers_that_are_none(name):
  wrong = detections(grid())
  wrong[name][0, 3] = np.nan
  assert np.isnan(ties.difference(detections(grid()), wrong, LIMIT).distance)


def refused(wanted, got, images=1):
  found = verification.compare(
      lambda: detections(wanted), lambda: detections(got), [()] * images)
  return {name for name, each in found.items() if not each.is_allowed}


@pytest.mark.parametrize('change, wrong', [
    # Boxes of an engine that decodes wrongly overlap the right ones, and have their scores.
    (lambda index, row: (row[0] + 1, *row[1:]), {'exchanged_detections'}),
    (lambda index, row: (row[0] + index % 2, *row[1:]), {'exchanged_detections'}),
    (lambda index, row: (row[0] + 9, *row[1:]), {'detection_boxes'}),
    (lambda index, row: (row[0] + (index == 3), *row[1:]), set())])
def test_wrong_boxes_that_overlap_the_right_ones_are_refused(change, wrong):
  rows = grid()
  assert refused(rows, [change(index, row) for index, row in enumerate(rows)]) == wrong


def test_an_engine_that_loses_a_detection_of_every_image_is_refused():
  assert refused(grid(), grid()[:-1]) == set()
  assert refused(grid(), grid()[:-1], images=2) == {'single_detections'}
