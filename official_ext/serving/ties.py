"""Compares the detections of one network computed twice, where rounding decides what is detected.

Suppression keeps the better one of two boxes that overlap, and the best detections of an image.
Where two scores differ by less than rounding, two engines, or a network with folded norms and one
without, may choose differently.
"""
from collections.abc import Mapping
import math
from typing import Any, NamedTuple

import numpy as np

from official_ext.serving import suppression

# Detections of the two sides are the same one only if their scores differ by at most this.
SCORES = 1e-3
# Scores of two boxes may be in another order on the other side if they differ by at most this, or
# by twice what the scores of one box differ by between the two: 1e-7 for an EfficientDet that
# was trained for 30 steps, 4e-6 for FCOS with DyFPN after 200.
TIE = 1e-6
# Overlap above which a box may have dropped another one; experiments drop above 0.5 or more.
OVERLAP = 0.3
# The largest allowed share of detections of ties.  That EfficientDet, whose scores are all between
# 0.0101 and 0.0102, has 0.05; an engine that decodes boxes wrongly changes many more.
SHARE = 0.1


def allowed_singles(images: int) -> float:
  """Returns how many of so many images may have one detection that one side alone has.

  What is wrong with an engine is so for every image; rounding at a threshold is for one of many,
  but may be there again when the image is compared with another budget.
  """
  return max(1.0, images / 4)


class Difference(NamedTuple):
  """How the detections of a batch differ.

  Attributes:
    distance: largest distance of a detection's coordinate from that of the nearest detection of
      its class and score on the other side, in pixels; without those of ties, and `single` ones.
    scores: largest difference of the scores of detections that both sides have.
    masks: the same of masks; 0 without masks.
    exchanged: share of the detections that one side alone has, because of ties.
    single: number of images with one detection that one side alone has for a reason that cannot be
      seen: a candidate's score lies within rounding of the threshold, before it is multiplied by
      the center-ness.  That happens to one image of many.
    changed: largest number of detections of an image that one side alone has.
  """
  distance: float
  scores: float
  masks: float
  exchanged: float
  single: int
  changed: int


class _Detections(NamedTuple):
  """The detections of an image.

  Attributes:
    boxes: float32 `[number, 4]`.
    scores: float32 `[number]`, descending.
    classes: int `[number]`.
    masks: `[number, ...]`, of no size without masks.
    is_full: whether there are as many detections as an image can have, so that further ones may
      have been left out.
  """
  boxes: np.ndarray
  scores: np.ndarray
  classes: np.ndarray
  masks: np.ndarray
  is_full: bool


def difference(expected: Mapping[str, Any], actual: Mapping[str, Any], limit: float) -> Difference:
  """Compares the detections of a batch, as sets.

  A detection that the other side lacks is one of a tie if the other side
  - has the largest number of detections, the last of which is not worse by more than rounding, or
  - has a detection of its class that this side lacks, which overlaps it by more than `OVERLAP` and
    is not worse by more than rounding.

  Args:
    expected: `detection_boxes`, `detection_scores` and `detection_classes`, by name, and
      `detection_masks` if there are masks.
    actual: the same.
    limit: the largest allowed distance in pixels; a detection without another one so near is
      lacking on the other side.
  """
  if not all(np.isfinite(outputs[f'detection_{name}']).all()
             for outputs in (expected, actual) for name in ('boxes', 'scores')):
    return Difference(math.nan, math.nan, math.nan, math.nan, 0, 0)
  found = [_compare(*images, limit) for images in zip(_images(expected), _images(actual))]
  number = sum(image.number for image in found)
  return Difference(
      max(image.distance for image in found), max(image.scores for image in found),
      max(image.masks for image in found),
      sum(image.exchanged for image in found) / max(number, 1),
      sum(image.single for image in found), max(image.changed for image in found))


class _ImageDifference(NamedTuple):
  """`Difference` of an image, with numbers in place of shares."""
  distance: float
  scores: float
  masks: float
  exchanged: int
  single: int
  changed: int
  number: int


def _compare(first: _Detections, second: _Detections, limit: float) -> _ImageDifference:
  """Compares the detections of an image."""
  apart = _distances(first, second)
  nearest = [np.min(apart, axis, initial=np.inf) for axis in (1, 0)]
  alone = [each > limit for each in nearest]
  scores, masks = _shared_differences(first, second, apart, ~alone[0])
  tie = max(TIE, 2 * scores)
  is_tie = [_ties(first, second, alone[0], alone[1], tie),
            _ties(second, first, alone[1], alone[0], tie)]
  all_nearest, all_alone, all_ties = (np.concatenate(both) for both in (nearest, alone, is_tie))
  is_unexplained = all_alone & ~all_ties
  is_single = np.sum(is_unexplained) == 1
  counted = ~all_ties & ~(is_single & is_unexplained)
  # Farther than any box, for a detection of whose class and score the other side has none.
  farthest = 2 * limit + max(np.max(np.abs(each.boxes), initial=0.0) for each in (first, second))
  return _ImageDifference(
      float(np.max(np.minimum(all_nearest, farthest)[counted], initial=0.0)), scores, masks,
      int(np.sum(all_ties)), int(is_single), int(np.sum(all_alone)), len(all_alone))


def _images(outputs: Mapping[str, Any]) -> list[_Detections]:
  """Returns the detections of each image, without padding."""
  images = []
  boxes, scores, classes = (
      np.asarray(outputs[f'detection_{name}']) for name in ('boxes', 'scores', 'classes'))
  masks = np.asarray(outputs.get('detection_masks', np.zeros([*scores.shape, 0])))
  for index, found in enumerate(scores > 0):
    images.append(_Detections(boxes[index][found], scores[index][found], classes[index][found],
                              masks[index][found], bool(found.all())))
  return images


def _distances(first: _Detections, second: _Detections) -> np.ndarray:
  """Returns `[number of first, number of second]`, infinity for those that cannot be the same."""
  apart = np.max(np.abs(first.boxes[:, None] - second.boxes), -1, initial=0.0)
  is_same = (first.classes[:, None] == second.classes) & (
      np.abs(first.scores[:, None] - second.scores) <= SCORES)
  return np.where(is_same, apart, np.inf)


def _shared_differences(first: _Detections, second: _Detections, apart: np.ndarray,
                        is_shared: np.ndarray) -> tuple[float, float]:
  """Returns the largest differences of scores and masks of detections that both sides have."""
  if not apart.size:
    return 0.0, 0.0
  partner = np.argmin(apart, axis=1)[is_shared]

  def largest(own: np.ndarray, other: np.ndarray) -> float:
    return float(np.max(
        np.abs(np.subtract(own[is_shared], other[partner], dtype=float)), initial=0.0))

  return largest(first.scores, second.scores), largest(first.masks, second.masks)


def _ties(own: _Detections, other: _Detections, is_alone: np.ndarray,
          is_other_alone: np.ndarray, tie: float) -> np.ndarray:
  """Returns which of the detections that the other side lacks are those of ties.

  Args:
    own: the detections.
    other: those of the other side.
    is_alone: boolean, which of `own` the other side lacks.
    is_other_alone: boolean, which of `other` this side lacks.
    tie: the largest difference of scores that may be in another order.
  """
  is_tie = np.zeros_like(is_alone)
  for index in np.flatnonzero(is_alone):
    least = own.scores[index] - tie
    rivals = is_other_alone & (other.classes == own.classes[index]) & (other.scores >= least)
    is_tie[index] = (other.is_full and other.scores[-1] >= least) or np.any(
        suppression.overlaps(own.boxes[index], other.boxes[rivals]) > OVERLAP)
  return is_tie
